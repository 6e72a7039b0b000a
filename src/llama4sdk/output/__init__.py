"""Typed answers: the form that an answer must have, and the object that it makes."""

from llama4sdk.output.form import AnswerForm, answer_form
from llama4sdk.output.json_schema import JsonSchema
from llama4sdk.output.reader import OutputReader

__all__ = ["AnswerForm", "JsonSchema", "OutputReader", "answer_form"]
