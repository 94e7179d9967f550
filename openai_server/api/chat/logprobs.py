"""Log probabilities as chats have them: a token that ends inside a character has its bytes beside the text. PURE."""

from openai_server.api.chat.answer import ChatLogprobs, ChatToken, LikelyToken
from openai_server.api.logprobs import LEAST, finite
from openai_server.core.logprobs import Logprobs, TokenLogprob


def chat_logprobs(logprobs: Logprobs) -> ChatLogprobs:
    return ChatLogprobs([_token(token) for token in logprobs], None)


def _token(token: TokenLogprob) -> ChatToken:
    text, logprob = token.token, LEAST if token.logprob is None else finite(token.logprob)
    top = [LikelyToken(text.decode(errors="replace"), finite(value), list(text)) for text, value in token.top]
    return ChatToken(text.decode(errors="replace"), logprob, list(text), top)
