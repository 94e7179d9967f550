"""Log probabilities in the form of chats. Each token has its bytes, as it may end inside a character. PURE."""

from openai_server.api.chat.answer import ChatLogprobs, ChatToken, LikelyToken
from openai_server.api.logprobs import MIN_LOGPROB, finite
from openai_server.core.logprobs import Logprobs, TokenLogprob


def chat_logprobs(logprobs: Logprobs) -> ChatLogprobs:
    return ChatLogprobs([_token(token) for token in logprobs], None)


def _token(token: TokenLogprob) -> ChatToken:
    text, logprob = token.token, MIN_LOGPROB if token.logprob is None else finite(token.logprob)
    top = [LikelyToken(text.decode(errors="replace"), finite(value), list(text)) for text, value in token.top]
    return ChatToken(text.decode(errors="replace"), logprob, list(text), top)
