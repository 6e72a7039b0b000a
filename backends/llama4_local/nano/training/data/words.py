# ruff: noqa: E501 - word lists read best as they stand
"""Words to talk about: names, places, things, and made-up words that nobody has seen before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

NAMES = (
    "Ada Adam Aisha Alan Alice Amara Amir Ana Anders Anna Arjun Astrid Bella Ben Bianca Boris Carla Carlos Chen Clara "
    "Daniel Dara Diego Dina Elena Eli Elias Emma Erik Eva Farah Felix Fatima Finn Frida George Grace Greta Hana Hans "
    "Hassan Helen Hugo Ida Igor Ines Ingrid Ivan Jack Jana Jane Javier Jin Joana John Jonas Julia Kai Karl Kate Kenji "
    "Lara Leila Leo Lina Linh Liam Lucas Lucy Luis Mai Malik Marco Maria Mary Mateo Max Maya Mei Mia Mila Milan Mina "
    "Nadia Nina Noah Nora Olga Oliver Omar Oscar Otto Paul Pedro Petra Pia Priya Quinn Rahul Rosa Ruth Sam Sara Sofia "
    "Somchai Sven Tariq Tim Tom Uma Vera Victor Wei Yara Yuki Zara Zoe"
).split()
CITIES = (
    "Amsterdam Athens Bangkok Barcelona Beijing Berlin Bern Boston Brisbane Brussels Budapest Cairo Chicago Cologne "
    "Copenhagen Dallas Delhi Denver Dubai Dublin Geneva Hamburg Hanoi Helsinki Istanbul Jakarta Kyoto Lagos Leeds Lima "
    "Lisbon Ljubljana London Lyon Madrid Manila Melbourne Milan Montreal Moscow Mumbai Munich Nairobi Naples Oslo Ottawa "
    "Paris Porto Prague Quito Riga Rome Seattle Seoul Seville Shanghai Singapore Stockholm Sydney Tallinn Tokyo Toronto "
    "Turin Vancouver Venice Vienna Vilnius Warsaw York Zagreb Zurich"
).split()
TWO_WORD_CITIES = (
    "New York",
    "San Francisco",
    "Hong Kong",
    "Cape Town",
    "Buenos Aires",
    "New Delhi",
    "Los Angeles",
    "Rio de Janeiro",
)
COLOURS = ("red", "green", "blue", "yellow", "purple", "black", "orange", "white", "pink", "brown", "grey", "turquoise")
ANIMALS = ("cat", "dog", "horse", "parrot", "rabbit", "hamster", "turtle", "goldfish", "pony", "mouse", "goat", "duck")
FOODS = (
    "pizza", "soup", "rice", "pasta", "bread", "cheese", "apples", "curry", "noodles", "salad", "pancakes", "sushi",
    "chocolate", "tacos", "dumplings", "olives",
)  # fmt: skip
JOBS = (
    "baker", "teacher", "nurse", "pilot", "farmer", "painter", "engineer", "doctor", "gardener", "lawyer", "writer",
    "carpenter", "cook", "driver", "singer", "plumber",
)  # fmt: skip
HOBBIES = (
    "chess", "football", "swimming", "reading", "painting", "cycling", "tennis", "dancing", "cooking", "hiking",
    "sailing", "photography", "gardening", "running",
)  # fmt: skip
WORDS = (
    "lamp table chair door window river mountain forest bridge garden letter book pencil phone camera bottle cup plate "
    "spoon clock ticket train plane boat car bicycle road house school market museum music song film game ball hat coat "
    "shoe ring key box bag paper picture mirror candle blanket pillow carpet oven fridge hammer nail rope wheel engine "
    "battery screen keyboard mouse printer server file folder message report invoice order parcel project meeting lesson "
    "story poem planet star moon sun cloud storm snow rain wind fire stone sand island beach lake ocean desert valley "
    "animal bird fish flower tree leaf apple banana lemon tomato potato onion carrot honey sugar salt pepper coffee tea "
    "water juice milk butter cake doctor friend neighbour child king queen robot dragon castle tower ship anchor magnet "
    "guitar piano violin drum trumpet ladder basket tent compass map flag coin wallet umbrella helmet"
).split()
ADJECTIVES = (
    "big small old new fast slow warm cold quiet loud bright dark happy sad clean heavy light soft hard round long short "
    "deep high sweet sharp early late open free golden silver wooden green blue red"
).split()
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SPOKEN_LANGUAGES = (
    "English", "French", "German", "Spanish", "Italian", "Hindi", "Thai", "Arabic", "Portuguese", "Vietnamese",
    "Japanese", "Chinese", "Polish", "Dutch", "Swedish",
)  # fmt: skip

_STARTS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kl kr pl pr qu sh sk sl st th tr x y".split()
_MIDDLES = "a e i o u ai au ea ee ei ia ie io oa oo ou ua".split()
_ENDS = ["", "", "", *"n r l s t m k d x ng nd rk st th rt ll sh ck p g f b".split()]


def random_word(rng: Random) -> str:
    """Return a made-up word in lower case, one to three syllables."""
    count = rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_ENDS) for _ in range(count))


def any_name(rng: Random) -> str:
    """Return a person's name, half of the time a made-up one."""
    return rng.choice(NAMES) if rng.random() < 0.5 else random_word(rng).capitalize()


def any_city(rng: Random) -> str:
    """Return a city's name, made up in four of ten cases."""
    roll = rng.random()
    if roll < 0.08:
        return rng.choice(TWO_WORD_CITIES)
    return rng.choice(CITIES) if roll < 0.6 else random_word(rng).capitalize()


def any_word(rng: Random) -> str:
    """Return a thing, or a made-up word in three of ten cases."""
    return rng.choice(WORDS) if rng.random() < 0.7 else random_word(rng)


def phrase(rng: Random, low: int = 2, high: int = 5) -> str:
    """Return some words in a row, in lower case."""
    pool = (WORDS, ADJECTIVES)
    return " ".join(
        random_word(rng) if rng.random() < 0.15 else rng.choice(pool[rng.random() < 0.35])
        for _ in range(rng.randint(low, high))
    )
