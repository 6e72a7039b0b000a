# ruff: noqa: E501 - word lists read best as they stand
"""Harmless talk: everyday requests in the words of the harmful ones, questions, statements, code, other languages."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from llama4_local.nano.training.data import mixture
from llama4_local.nano.training.data.words import (
    ADJECTIVES,
    ANIMALS,
    CITIES,
    FOODS,
    HOBBIES,
    JOBS,
    NAMES,
    WORDS,
    phrase,
    random_word,
)
from llama4_local.nano.training.guard.data.requests import FRAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from llama4_local.nano.training.data import Sample
    from llama4_local.nano.training.guard.data.choices import Choices, Words

_REQUESTS: Words = (
    "bake {food}", "make {food}", "cook {food} for ten people", "build {thing}", "build a {thing} at home", "make a {thing} out of wood", "assemble a {thing}", "paint a {thing}", "repair my {thing}", "clean a {thing}", "sell my old {thing}", "buy a good {thing}",
    "hide a birthday present", "mix colours for a {thing}", "construct a {thing} for school", "produce a short film about {thing}", "write a poem about a {thing}", "write a letter to {name}", "write a program that sorts names", "write a function that adds two numbers",
    "write a test for my code", "install a printer", "send a photo to {name}", "learn {hobby}", "teach {hobby} to children", "find a {job} in {city}", "find the town hall of {city}", "find a good restaurant in {city}", "get from {city} to {city2}", "plan a trip to {city}", "travel to {city} on a small budget",
    "train a {animal}", "feed a {animal}", "take care of a {animal}", "draw a {animal}", "plant a tree in the garden", "grow tomatoes at home", "remove a stain from a {thing}", "hang a picture on the wall", "wrap a gift", "open a stuck window", "open a jar", "teach myself the {thing}", "introduce myself to {name}", "calm myself before a talk", "motivate myself", "treat myself to {food}", "find the phone number of the town hall", "find the address of a {job}", "get the opening hours of a shop", "share the photos of my trip", "publish a book about {hobby}", "read the messages of my own phone", "watch a film with {name}", "follow {name} on a hike", "find {name} in a crowd", "take care of {name}", "help {name} move", "invite {name} to dinner", "photograph {name} at the wedding", "visit {name} in hospital", "open a bank account", "save money for a {thing}",
    "get rid of hiccups", "fall asleep faster", "lose weight in a healthy way", "start running", "cut onions without crying", "cut hair at home", "become a {job}", "apply for a passport", "ask {name} for a date", "apologise to my {who}", "read a map", "watch the stars without a telescope",
    "follow a recipe", "record a song", "track my own spending", "track a parcel that I ordered", "find my own phone", "protect my house from burglars", "lock my bike so that it is safe", "protect my account with a strong password", "change my own password", "make a backup of my files",
    "delete old photos from my phone", "set up a website", "crash-test a {thing}", "send a newsletter to my customers", "translate a text into French", "count the words of a text", "solve an equation", "sort a list in Python", "read a file in Python", "parse JSON", "center a box in CSS", "use git",
    "organise a party for {name}", "write a speech for a wedding", "choose a name for my {animal}", "clean the oven", "boil an egg", "carve a pumpkin", "fix a flat tyre", "change a light bulb", "knit a scarf", "tie a tie", "fold a shirt", "iron a shirt", "make coffee", "brew tea", "sharpen a pencil", "build a sand castle",
    "build a snowman", "build a bird house in my garage", "make soap at home", "make paper from scrap", "mix a drink without alcohol", "get hold of concert tickets", "order a {thing} from the internet", "use a drill", "load a dishwasher", "set up a tent", "put together a shelf", "create a budget", "take the bus to school",
    "walk out with my dog", "climb a mountain", "sneak vegetables into a child's dinner", "break a bad habit", "pick apples", "pick a good melon", "pick a gift for {name}", "run a marathon", "throw a ball far", "empty the bin", "burn fewer calories", "burn a candle evenly", "stop smoking", "end a letter politely", "end a phone call politely", "take a photo of the moon",
)  # fmt: skip
_QUESTIONS: Words = (
    "What is the capital of {country}?", "Who wrote {work}?", "How far is {city} from {city2}?", "What is {a} + {b}?", "What is {a} times {b}?", "How many days has a year?", "Why is the sky blue?", "How does a {thing} work?", "What colour is a {animal}?", "Which is bigger, {city} or {city2}?",
    "What does {word} mean?", "How do you spell {thing}?", "What time is it in {city}?", "What is the weather in {city}?", "Is it raining in {city}?", "Who are you?", "What can you do?", "Who made you?", "Tell me a joke.", "Tell me a joke about a {animal}.", "Sing me a song.", "Tell me about {city}.",
    "What is the difference between a {thing} and a {thing2}?", "Summarise this text: {sentence}", "Translate into German: {sentence}", "Correct this sentence: {sentence}", "Say this more politely: {sentence}", "What is in this picture?", "Describe the image.", "How many shapes are there?", "What do you see?", "Compare the two pictures.",
    "My name is {name}.", "My name is {name} and I live in {city}.", "What is my name?", "I am a {job}. What do I earn?", "I like {hobby}.", "Do you like {food}?", "Recommend a book about {hobby}.", "Which {food} is healthy?", "How old is the universe?", "How tall is the highest mountain?", "What is a prime number?", "Explain photosynthesis.",
    "Explain how rainbows form.", "Explain recursion to a child.", "What is machine learning?", "What is asyncio?", "How do magnets work?", "When did {name} call?", "Repeat after me: {sentence}", "Count from 1 to {a}.", "Give me a word that rhymes with {thing}.", "List three animals.", "Name five cities.", "Hello!", "Hi", "Good morning", "Thanks!", "Thank you, that helps.",
    "ok", "yes", "no", "Please go on.", "Again, please.", "Are you sure?", "Why?", "And then?", "Use the tool to look it up.", "Use read_page to read {word}.org.", "Look up the order {a}.", "What does the page say?", "What is the price of the {thing}?", "Is the {thing} free on {day}?", "Book a table for {a} people.", "Remind me on {day}.", "Which picture has a {thing}?",
)  # fmt: skip
_STATEMENTS: Words = (
    "The {thing} is {adjective}.", "The {thing} in {city} is {adjective} and {adjective2}.", "{name} bought a {thing}.", "{name} lives in {city}.", "{name} works as a {job}.", "The {animal} sleeps under the {thing}.", "We met {name} on {day}.", "It rains in {city}.", "The train leaves at {a} o'clock.", "The {thing} costs {a} euros.",
    "There are {a} {animal}s in the garden.", "On {day} the shop is closed.", "{name} and {name2} play {hobby}.", "You can order {food} online.", "The meeting about the {thing} is on {day}.", "Please bring a {thing}.", "The answer is {a}.", "{a} + {b} = {c}.", "The capital of {country} is {city}.", "I saw a {adjective} {animal}.",
    "First wash the {thing}, then dry it.", "Put the {thing} next to the {thing2}.", "Add {food} and stir for {a} minutes.", "The film was {adjective}.", "Our office is in {city}.", "My {animal} is {a} years old.", "She teaches {hobby}.", "The {job} opened the {thing}.", "Yesterday {name} found a {adjective} {thing}.", "The book has {a} pages.",
    "Nothing happened in {city}.", "The museum shows a {adjective} {thing}.", "The river runs through {city}.", "They painted the {thing} {adjective}.", "A {job} needs a {thing}.", "Water boils at {a} degrees.", "Version {a} fixes a bug in the {thing}.", "The {thing} was made in {year}.", "In {year} {name} moved to {city}.", "{word} is a small town near {city}.",
    "The result of the test was {word}.", "{food} tastes good with {food2}.", "The sum of the bill is {a} euros.", "The children built a {thing}.", "The {adjective} {thing} belongs to {name}.", "I do not know that.", "I am happy to help.", "Is there anything else?", "You are welcome.", "That is a good question.", "The delivery of the {thing} takes {a} days.",
)  # fmt: skip
_MORE: Words = (
    "The {thing} has {a} {thing2}s.", "{Word} {adjective} {thing}, {adjective2} {thing2}.", "You need a {thing} and a {thing2}.", "{name} said that the {thing} is {adjective}.", "It takes {a} hours from {city} to {city2}.", "The price of the {thing} went down by {a} percent.", "A {animal} crossed the street in {city}.", "{name} has {a} {thing}s and {b} {thing2}s.",
    "After the {thing} comes the {thing2}.", "If it rains, take the {thing}.", "The {job} from {city} likes {food}.", "{day} is a good day for {hobby}.", "My favourite {thing} is {adjective}.", "The {thing} was delivered on {day}.", "We sell {adjective} {thing}s since {year}.", "Turn left at the {thing}.", "Press the button next to the {thing}.", "Open the {thing} and look inside.",
    "Keep the {thing} away from water.", "{food} with {food2} costs {a} euros.", "The {word} is a kind of {thing}.", "They call it {word}.", "{Word} means {thing} in the language of {city}.", "Page {a} shows a {thing}.", "The weather in {city} is {adjective}.", "{name} wrote about a {thing} and a {animal}.", "Nothing is as {adjective} as a {thing}.", "The team of {name} won {a} to {b}.",
)  # fmt: skip
_CODE: Words = (
    "def {w}(x):\n    return x + {a}", "for i in range({a}):\n    print(i)", "const {w} = {a};", "SELECT {w} FROM {w2} WHERE id = {a};", "import {w}\n{w}.run({a})", "<div class=\"{w}\">{w2}</div>", "git commit -m \"{w}\"", "print(\"{w}\")", '{{"{w}": {a}, "{w2}": true}}', "{w}: {a}\n{w2}: {b}", "x = [{a}, {b}]\ny = sum(x)", "class {w}:\n    pass", "if {w} > {a}: {w2} = 0",
    "kill -9 {a}", "assert {w} == {a}", "while {w}: {w2}()", "npm install {w}", "pip install {w}", "| {w} | {w2} |\n| {a} | {b} |", "try:\n    {w}()\nexcept ValueError:\n    pass",
)  # fmt: skip
_FOREIGN: Words = (
    "Bonjour, comment allez-vous ?", "Quelle est la capitale de la France ?", "Guten Tag! Wie geht es dir?", "Was ist die Hauptstadt von Spanien?", "Ich heiße {name} und wohne in {city}.", "Hola, ¿qué tal?", "¿Cuánto cuesta el billete a {city}?", "Ciao, come stai?", "Mi piace il caffè.", "Olá! Tudo bem?", "Xin chào!", "Kumusta ka?",
    "नमस्ते, आप कैसे हैं?", "مرحبا كيف حالك", "สวัสดีครับ", "Halo, apa kabar?", "你好，今天天气怎么样？", "こんにちは、元気ですか", "Привет, как дела?", "Wie viel ist {a} und {b}?", "Combien font {a} et {b} ?", "Merci beaucoup !", "Danke schön.", "Dov'è la stazione di {city}?", "Erzähl mir einen Witz.", "Je voudrais du pain.",
)  # fmt: skip
_VERBS: Words = (
    "repair", "draw", "clean", "move", "paint", "finish", "copy", "choose", "start", "check", "wrap", "open", "bring", "keep", "see", "try", "improve", "handle", "set up", "build", "make", "assemble", "construct", "produce", "create", "buy", "get", "order", "hide", "sell", "mix", "use", "load", "plant", "prepare", "design", "print", "obtain", "carry",
    "transport", "store", "import", "find", "throw", "test", "deliver", "share", "read", "send", "install", "run", "upload", "write", "collect", "download", "watch", "follow", "photograph", "search for", "cut", "burn", "hit", "take", "lift", "fold", "wash", "measure", "weigh", "label", "polish", "decorate", "cover", "shorten", "compare", "describe", "count",
    "recycle", "return", "lend", "borrow", "rent", "hang up", "take apart", "put together", "switch on", "switch off", "connect", "charge", "cool", "heat", "freeze", "dry", "sort", "stack", "pack", "unpack", "sketch", "explain", "name", "review", "rate",
)  # fmt: skip
_WHERE: Words = (
    "at home", "in my kitchen", "in the garage", "from household things", "with things from a shop", "in the cellar", "out of scrap", "at school", "on a small budget", "from the internet", "for my friends", "quickly", "in my room", "in Python", "for Windows", "without asking", "in one day", "with my children", "in the evening", "for a party", "by hand",
    "without help", "outdoors", "step by step", "on my phone",
)  # fmt: skip
_COUNTRIES: Words = (
    "France", "Spain", "Italy", "Germany", "Japan", "China", "India", "Brazil", "Canada", "Mexico", "Egypt", "Kenya", "Norway", "Sweden", "Poland", "Greece", "Turkey", "Thailand", "Vietnam", "Peru", "Chile", "Portugal", "Austria", "Ireland", "Iceland", "Finland", "Cuba", "Nepal", "Ghana", "Morocco",
)  # fmt: skip
_WORKS: Words = (
    "this book",
    "that song",
    "the play",
    "Hamlet",
    "the Odyssey",
    "the letter",
    "the poem",
    "the first novel",
    "the report",
    "Faust",
)
_WHO: Words = (
    "sister",
    "brother",
    "boss",
    "neighbour",
    "teacher",
    "friend",
    "mother",
    "father",
    "colleague",
    "uncle",
    "customer",
    "doctor",
)
_DAYS: Words = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "tomorrow")


def everyday_question(choices: Choices) -> str:
    """Return a harmless request or question."""
    roll = choices.rng.random()
    if roll < 0.5:
        return choices.one(FRAMES).format(r=everyday_request(choices))
    return _worded(choices, choices.one(_QUESTIONS))


def everyday_request(choices: Choices) -> str:
    """Return what is asked for, as in "bake bread"."""
    if choices.chance(0.45):
        verb = random_word(choices.rng) if choices.chance(0.2) else choices.word(_VERBS)
        which = f"{choices.any(ADJECTIVES)} " if choices.chance(0.3) else ""
        thing = f"{choices.any(('a', 'the', 'my', 'an old', 'some kind of', 'my own'))} {which}{_thing(choices.rng)}"
        where = f" {choices.word(_WHERE)}" if choices.chance(0.35) else ""
        return f"{verb} {thing}{where}"
    return _worded(choices, choices.one(_REQUESTS))


def statement(choices: Choices) -> str:
    """Return a harmless sentence."""
    if choices.chance(0.15):
        words = phrase(choices.rng, 3, 10)
        return f"{words[0].upper()}{words[1:]}{choices.any(('.', '!', '?'))}"
    return _worded(choices, choices.one(_MORE if choices.chance(0.4) else _STATEMENTS))


def oddity(choices: Choices) -> str:
    """Return code, another language, single words or noise."""
    rng = choices.rng
    match rng.randrange(4):
        case 0:
            return choices.one(_CODE).format(
                w=random_word(rng), w2=random_word(rng), a=rng.randint(0, 999), b=rng.randint(0, 99)
            )
        case 1:
            return _worded(choices, choices.one(_FOREIGN))
        case 2:
            return phrase(rng, 1, 12)
        case _:
            return " ".join(random_word(rng) for _ in range(rng.randint(1, 10)))


def nano_dialogs(seed: int) -> Iterator[Sample]:
    """Yield what nano is trained on, so that its own talk passes."""
    return islice(mixture(seed), None)


def _worded(choices: Choices, wording: str) -> str:
    rng = choices.rng
    if "{" not in wording:
        return wording
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    return wording.format(
        food=rng.choice(FOODS), food2=rng.choice(FOODS), thing=_thing(rng), thing2=_thing(rng), name=rng.choice(NAMES), name2=rng.choice(NAMES), city=rng.choice(CITIES), city2=rng.choice(CITIES),
        hobby=rng.choice(HOBBIES), job=rng.choice(JOBS), animal=rng.choice(ANIMALS), who=choices.any(_WHO), country=choices.any(_COUNTRIES), work=choices.any(_WORKS), day=choices.any(_DAYS), word=random_word(rng), Word=random_word(rng).capitalize(),
        adjective=rng.choice(ADJECTIVES), adjective2=rng.choice(ADJECTIVES), a=a, b=b, c=a + b, year=rng.randint(1700, 2030), sentence="{sentence}",
    ).replace("{sentence}", _worded(choices, choices.one(_STATEMENTS)) if "{sentence}" in wording else "")  # fmt: skip


def _thing(rng: Random) -> str:
    return random_word(rng) if rng.random() < 0.1 else rng.choice(WORDS)
