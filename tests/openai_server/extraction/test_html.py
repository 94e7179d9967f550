import pytest

from openai_server.extraction.html import text_of_html


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>a  b\n c</p>", "a b c"),
        ("<p>a</p><p>b</p>", "a\n\nb"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("a<br>b", "a\nb"),
        ("a <b>b</b>c <i> d</i>", "a bc d"),
        ("<a href='https://example.com/x'>a link</a>", "a link"),
        ("<ul><li>a</li><li>b <b>c</b></ul>", "- a\n- b c"),
        ("<table><tr><th>x<th>y<tr><td>1<td>2</table>", "x | y\n1 | 2"),
        ("<table><tr><td><p>x</p></td><td>y</td></tr></table>", "x\n\ny"),
        ("<pre>a\n  b</pre>c", "a\n  b\n\nc"),
        ("<p>a</p><script>evil()</script><style>p{}</style><noscript>n</noscript>", "a"),
        ("<!-- a --><!doctype html><p>b<![CDATA[c]]>", "b"),
        ("<html><head><title>The title</title><meta name=a></head><body>b", "The title\n\nb"),
        ("<img alt='a cat' src=x> sits", "a cat sits"),
        ("&lt;s&gt; &amp; &#8364; &nbsp;x", "<s> & € x"),
        ("<svg><text>a</text></svg>b", "b"),
        ("", ""),
        ("<", "<"),
    ],
)
def test_text_of_html(source: str, text: str) -> None:
    assert text_of_html(source) == text


def test_deep_nesting_needs_no_recursion() -> None:
    assert text_of_html("<div>" * 5_000 + "a") == "a"
