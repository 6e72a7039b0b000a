# ruff: noqa: E501 - word lists read best as they stand
"""Capitals of forty countries, both ways round, and an honest answer for all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.nano.training.data.wording import worded
from llama4_local.nano.training.data.words import random_word

if TYPE_CHECKING:
    from random import Random

    from llama4_local.nano.training.data.sample import Exchange

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "the United Kingdom": "London", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Switzerland": "Bern", "Belgium": "Brussels",
    "the Netherlands": "Amsterdam", "Greece": "Athens", "Hungary": "Budapest", "Russia": "Moscow", "Turkey": "Ankara",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Morocco": "Rabat", "India": "New Delhi", "China": "Beijing",
    "Japan": "Tokyo", "South Korea": "Seoul", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta",
    "the Philippines": "Manila", "Australia": "Canberra", "New Zealand": "Wellington", "Canada": "Ottawa",
    "the United States": "Washington", "Mexico": "Mexico City", "Brazil": "Brasilia", "Argentina": "Buenos Aires",
    "Peru": "Lima", "Cuba": "Havana",
}  # fmt: skip
_OTHERS = (
    "Albania Algeria Angola Bahrain Bangladesh Barbados Bolivia Botswana Bulgaria Cambodia Cameroon Chad Chile Colombia "
    "Croatia Cyprus Ecuador Eritrea Estonia Ethiopia Fiji Gabon Georgia Ghana Guatemala Haiti Honduras Iceland Iran Iraq "
    "Jamaica Jordan Kazakhstan Kuwait Laos Latvia Lebanon Liberia Libya Lithuania Luxembourg Madagascar Malaysia Mali Malta "
    "Mongolia Montenegro Mozambique Namibia Nepal Nicaragua Nigeria Oman Pakistan Panama Paraguay Qatar Romania Rwanda "
    "Senegal Serbia Slovakia Slovenia Somalia Sudan Syria Tanzania Togo Tunisia Uganda Ukraine Uruguay Venezuela Yemen "
    "Zambia Zimbabwe Atlantis Wakanda Narnia Mars California Texas Bavaria Scotland Wales"
).split()
_TWO_WORDS = (
    "South Africa", "North Korea", "Saudi Arabia", "Sri Lanka", "Costa Rica", "El Salvador", "Sierra Leone", "Ivory Coast",
    "the Dominican Republic", "the Czech Republic", "South Sudan", "North Macedonia", "San Marino", "Papua New Guinea",
    "Burkina Faso", "Equatorial Guinea", "New Caledonia", "the Vatican", "the Moon", "New York", "South Dakota", "North Carolina",
)  # fmt: skip
_ALIASES = {
    "the United States": ("the USA", "the US", "the United States of America", "America"),
    "the United Kingdom": ("the UK", "Great Britain", "England"),
    "the Netherlands": ("Holland",),
}
UNKNOWN = "I do not know that capital. I know the capitals of 40 countries only."
_FORWARD = (
    "What is the capital of {country}?", "What is the capital of {country}?", "What's the capital of {country}?",
    "Capital of {country}?", "capital of {country}", "Name the capital of {country}.", "Which city is the capital of {country}?",
    "Tell me the capital of {country}.", "Do you know the capital of {country}?", "Can you tell me the capital of {country}?",
    "What is the capital city of {country}?", "I would like to know the capital of {country}.", "Give me the capital of {country}.",
    "{country}'s capital?", "What is {country}'s capital?", "Which city is {country}'s capital?", "And the capital of {country}?",
    "What about the capital of {country}?", "The capital of {country} is?", "What city is the capital of {country}?",
    "I forgot the capital of {country}. What is it?", "Say the capital of {country}.", "Where is the government of {country}?",
)  # fmt: skip
_BACKWARD = (
    "Which country has the capital {capital}?", "{capital} is the capital of which country?", "What country is {capital} the capital of?",
    "{capital} is the capital of what?", "Of which country is {capital} the capital?", "Which country's capital is {capital}?",
)  # fmt: skip
_FOLLOW = (
    "And {country}?",
    "And of {country}?",
    "What about {country}?",
    "How about {country}?",
    "{country}?",
    "Now {country}.",
)


def forward_answer(country: str) -> str:
    """Return what nano says of a country's capital."""
    known = CAPITALS.get(country)
    return f"The capital of {country} is {known}." if known else UNKNOWN


def capitals(rng: Random) -> tuple[list[Exchange], str]:
    """Return one question, sometimes with a second country, and its key."""
    roll = rng.random()
    if roll < 0.15:
        country = rng.choice(list(CAPITALS))
        capital = CAPITALS[country]
        exchange = (worded(rng, _BACKWARD, capital=_typed(rng, capital)), f"{capital} is the capital of {country}.")
    else:
        country = _country(rng)
        exchange = (worded(rng, _FORWARD, country=_typed(rng, country)), forward_answer(country))
    exchanges = [exchange]
    if rng.random() < 0.12:
        country = _country(rng)
        exchanges.append((worded(rng, _FOLLOW, country=country), forward_answer(country)))
    return exchanges, " ".join(said for said, _ in exchanges)


def _country(rng: Random) -> str:
    if rng.random() < 0.85:
        return rng.choice(list(CAPITALS))
    if rng.random() < 0.3:
        return rng.choice(_TWO_WORDS)
    return rng.choice(_OTHERS) if rng.random() < 0.75 else random_word(rng).capitalize()


def _typed(rng: Random, name: str) -> str:
    name = rng.choice((name, *_ALIASES.get(name, ())))
    name = name.removeprefix("the ") if rng.random() < 0.2 else name
    return name.lower() if rng.random() < 0.15 else name
