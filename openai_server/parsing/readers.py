"""Chooses how the text of a choice is read. PURE."""

from openai_server.parsing.choice_reader import AnswerFormat, ChoiceReader
from openai_server.parsing.event_reader import EventReader


def reader_of(format: AnswerFormat) -> ChoiceReader | EventReader:
    """A reader for one choice."""
    return EventReader(format) if format.new_parser is None else ChoiceReader(format)
