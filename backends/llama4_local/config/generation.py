"""Reads a checkpoint's defaults of generation: those that transformers' `generate` follows, in its names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.config.model import GenerationConfig

if TYPE_CHECKING:
    from llama4_local.config.fields import Fields

_USUAL_TEMPERATURE = 1.0  # of transformers, where a config samples and names none


def read_generation(fields: Fields, top: Fields, text: Fields) -> GenerationConfig:
    """Return the defaults of `generation_config.json`.

    Args:
        fields: Its content.
        top: The content of `config.json`, where begin and stop tokens are looked for next.
        text: Its `text_config`, where they are looked for last.
    """
    places = (fields, top, text)
    return GenerationConfig(
        bos_token_id=_begin(places),
        eos_token_ids=_stops(places),
        temperature=_temperature(fields),
        top_p=_within(fields, "top_p", 0, 1),
        top_k=max(0, fields.whole("top_k", 0, low=-1)) if "top_k" in fields else None,  # vLLM writes -1 for all
        min_p=_within(fields, "min_p", 0, 1),
        repetition_penalty=_within(fields, "repetition_penalty", 0.01, 100),
        max_tokens=fields.whole("max_new_tokens", 1) if "max_new_tokens" in fields else None,
    )


def _temperature(fields: Fields) -> float | None:
    samples = fields.flag("do_sample", default=True) if "do_sample" in fields else None
    temperature = _within(fields, "temperature", 0, 100)
    if samples is False:
        return 0.0
    return _USUAL_TEMPERATURE if samples and temperature is None else temperature


def _within(fields: Fields, key: str, low: float, high: float) -> float | None:
    value = fields.number_or_none(key, zero=key in ("temperature", "min_p"))
    if value is not None and not low <= value <= high:
        fields.refuse(key, f"must lie from {low} to {high}")
        return None
    return value


def _begin(places: tuple[Fields, ...]) -> int | None:
    source = next((place for place in places if "bos_token_id" in place), None)
    return None if source is None else source.whole("bos_token_id", 0, low=0)


def _stops(places: tuple[Fields, ...]) -> tuple[int, ...]:
    source = next((place for place in places if "eos_token_id" in place and place.values["eos_token_id"] != []), None)
    if source is None:
        return ()
    if isinstance(source.values["eos_token_id"], list):
        return tuple(source.whole_list("eos_token_id") or ())
    return (source.whole("eos_token_id", 0, low=0),)
