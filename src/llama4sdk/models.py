"""The catalogue: what is publicly known of the models, and a recommended system prompt.

Figures from Meta's Llama 4 model card and the published configurations of the checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

# The languages that Meta supports, as the model card lists them.
LANGUAGES = (
    "Arabic",
    "English",
    "French",
    "German",
    "Hindi",
    "Indonesian",
    "Italian",
    "Portuguese",
    "Spanish",
    "Tagalog",
    "Thai",
    "Vietnamese",
)
KNOWLEDGE_CUTOFF = "August 2024"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The facts of one model.

    Args:
        name: Its short name.
        repository: Name under which the checkpoint is published; empty for a bundled one.
        context: Tokens that its context holds.
        experts: Routed experts per mixture-of-experts layer; 0 for a dense model.
        parameters: Parameters in all, in units.
        active_parameters: Parameters that a token passes through, in units.
        max_images: Most images per prompt that it was tested with.
        languages: Languages it is meant for.
    """

    name: str
    repository: str
    context: int
    experts: int
    parameters: int
    active_parameters: int
    max_images: int = 5
    languages: tuple[str, ...] = LANGUAGES


SCOUT = ModelCard("scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct", 10_485_760, 16, 108_600_000_000, 17_000_000_000)
MAVERICK = ModelCard(
    "maverick",
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
    1_048_576,
    128,
    401_600_000_000,
    17_000_000_000,
)
GUARD_4 = ModelCard("guard-4", "meta-llama/Llama-Guard-4-12B", 131_072, 0, 12_000_000_000, 12_000_000_000)
MODELS = {card.name: card for card in (SCOUT, MAVERICK, GUARD_4)}


def system_prompt(model: str = "Llama 4", *, extra: str = "") -> str:
    """Return the recommended system prompt, in this project's words after the model card's advice.

    Args:
        model: The name by which the model speaks of itself.
        extra: The application's own instructions, appended.
    """
    advice = (
        f"You are {model}, a conversational and good-humoured assistant. Notice what the person is after: a chat, "
        "a laugh, somebody to listen, or an answer, and give them that. Lay information out so that they can decide "
        "for themselves. Do not lecture, moralise or claim moral authority, and use no set phrases. Write in any "
        "voice or from any point of view you are asked for, and take on political and social questions openly. "
        f"Your knowledge ends in {KNOWLEDGE_CUTOFF}. You speak {', '.join(LANGUAGES[:-1])} and {LANGUAGES[-1]}; "
        "answer in the person's own language."
    )
    return f"{advice}\n\n{extra}" if extra else advice
