# ruff: noqa: E501 - word lists read best as they stand
"""Made-up tools with questions that call for them: some that many applications have, most at random."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama4_local.nano.training.data.parameters import Value, value_of
from llama4_local.nano.training.data.wording import worded
from llama4_local.nano.training.data.words import any_word, phrase, random_word
from llama4sdk.messages import ToolCall
from llama4sdk.request import ToolSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random


@dataclass(frozen=True, slots=True)
class Asked:
    """A tool, a question that needs it, and the right call; tools of one subject would answer each other's."""

    spec: ToolSpec
    said: str
    call: ToolCall
    subject: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """A familiar tool: its possible names, what it does, its parameters with their kinds, the questions."""

    names: str
    does: tuple[str, ...]
    parameters: str  # "name/other name=kind", those after ";" are optional
    asked: tuple[str, ...]


_FAMILIAR = (
    _Kind("get_weather weather current_weather weather_now fetch_weather getWeather weather_report get_current_weather",
          ("Get the weather of a city.", "Return the current weather in a place.", "Tell the weather.", "Look up the weather for a location.", "Weather for a city."),
          "city/location/place/town=city; days=small unit/units=enum:celsius|fahrenheit",
          ("What is the weather in {city}?", "What's the weather like in {city}?", "How is the weather in {city}?", "Weather in {city}?", "Is it raining in {city}?",
           "What is the weather in {city} for {days} days?", "Tell me the weather in {city}.", "weather {city}", "What is the weather in {city} in {unit}?",
           "Give me the weather of {city} for the next {days} days.", "What will the weather in {city} be for {days} days in {unit}?",
           "How warm is it in {city}?", "Will it rain in {city}?", "Do I need an umbrella in {city}?")),
    _Kind("get_forecast forecast weather_forecast", ("Forecast the weather for some days.", "Weather forecast of a city."),
          "city/location/place=city days/count=small",
          ("Give me the forecast for {city} for {days} days.", "What is the forecast in {city} for the next {days} days?", "{days} days of forecast for {city}.",
           "What will the weather be in {city} over {days} days?")),
    _Kind("get_time current_time time_in get_local_time clock", ("Get the local time of a city.", "Return the time in a place.", "What time it is somewhere."),
          "city/location/place/zone=city",
          ("What time is it in {city}?", "Tell me the time in {city}.", "What is the local time in {city}?", "Time in {city}?", "How late is it in {city}?")),
    _Kind("convert_currency exchange convert_money currency_convert", ("Convert money from one currency to another.", "Exchange an amount of money."),
          "amount/value=number source/from_currency/base=currency target/to_currency/into=currency",
          ("Convert {amount} {source} to {target}.", "How much is {amount} {source} in {target}?", "What are {amount} {source} in {target}?",
           "Change {amount} {source} into {target}.", "I have {amount} {source}. How much is that in {target}?")),
    _Kind("send_email email write_email mail send_mail", ("Send an email.", "Send an email to an address.", "Write a mail."),
          "to/recipient/address=email subject/title=text; body/text=text",
          ('Send an email to {to} with the subject "{subject}".', "Email {to} about {subject}.", 'Write to {to} with subject "{subject}" and text "{body}".',
           'Send {to} a mail. Subject: {subject}. Text: {body}.')),
    _Kind("send_message message text_person send_sms sms", ("Send a text message to a person.", "Send a message."),
          "person/to/name/recipient=person text/message/content=text",
          ('Send {person} the message "{text}".', "Tell {person}: {text}", "Text {person}: {text}", 'Message {person} "{text}".', 'Send "{text}" to {person}.')),
    _Kind("set_timer timer start_timer countdown", ("Start a timer.", "Set a timer for some minutes."),
          "minutes/duration=small; label/name=word",
          ("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.", "Timer for {minutes} minutes called {label}.", "Set a {label} timer for {minutes} minutes.",
           "Wake me in {minutes} minutes.")),
    _Kind("set_alarm alarm wake_up add_alarm", ("Set an alarm.", "Set an alarm at a time of day."), "time/at/when=time; day=day",
          ("Set an alarm for {time}.", "Wake me at {time}.", "Alarm at {time} on {day}.", "Set an alarm at {time} on {day}.")),
    _Kind("add_reminder remind reminder create_reminder set_reminder", ("Remind the user of something.", "Create a reminder."),
          "text/what/note/task=text; day/when=day",
          ("Remind me to {text}.", "Remind me to {text} on {day}.", "Set a reminder: {text}.", "Create a reminder for {day}: {text}.")),
    _Kind("search web_search find_pages search_web lookup", ("Search the web.", "Search for pages.", "Find information on the internet."),
          "query/q/text/terms=text; limit/count/max_results=small",
          ("Search for {query}.", "Search the web for {query}.", "Look up {query}.", "Find {limit} pages about {query}.", "Google {query}.", "Search for {query} and give me {limit} results.")),
    _Kind("play_music play play_song start_music", ("Play a song.", "Play music.", "Start to play some music."), "song/title/name=text; artist/singer=person",
          ("Play {song}.", "Play {song} by {artist}.", "I want to hear {song}.", "Put on {song} by {artist}.", "Start playing {song}.")),
    _Kind("set_light light switch_light lamp control_light lights", ("Switch a light on or off.", "Control the light of a room."),
          "room/place=enum:kitchen|bedroom|bathroom|garden|hall|office on/state/enabled=switch",
          ("Turn the light in the {room} {on}.", "Switch the {room} light {on}.", "{room} light {on}", "Set the light in the {room} to {on}.")),
    _Kind("set_temperature thermostat heat set_heating", ("Set the temperature of a room.", "Set the heating."), "degrees/temperature/value/celsius=signed; room/place=word",
          ("Set the temperature to {degrees} degrees.", "Set the heating to {degrees}.", "Make it {degrees} degrees in the {room}.", "Heat the {room} to {degrees} degrees.")),
    _Kind("translate translate_text translation", ("Translate a text.", "Translate a text into a language."), "text/phrase=text language/target/to=language",
          ('Translate "{text}" into {language}.', "Translate {text} to {language}.", "What is {text} in {language}?", "How do you say {text} in {language}?")),
    _Kind("get_stock_price stock_price quote stock ticker_price", ("Get the price of a stock.", "Look up a share price."), "symbol/ticker/code=symbol",
          ("What is the price of {symbol}?", "Stock price of {symbol}?", "How is the stock {symbol} doing?", "Get me the price of {symbol} stock.", "What does a share of {symbol} cost?")),
    _Kind("book_flight find_flight search_flights flight flights", ("Find a flight between two cities.", "Book a flight."),
          "origin/start/from_city/departure=city destination/to_city/arrival/end=city; date/day/when=date",
          ("Book a flight from {origin} to {destination}.", "Find me a flight from {origin} to {destination} on {date}.", "I want to fly from {origin} to {destination}.",
           "Flights from {origin} to {destination} on {date}?")),
    _Kind("book_hotel find_hotel hotel reserve_hotel", ("Book a hotel room.", "Find a hotel in a city."), "city/place/location=city nights/days=small; guests/people=small",
          ("Book a hotel in {city} for {nights} nights.", "Find a hotel in {city} for {nights} nights and {guests} people.", "I need a room in {city} for {nights} nights.")),
    _Kind("distance get_distance route how_far", ("Distance between two cities.", "Get the distance from one place to another."),
          "start/origin/a/city_a=city end/destination/b/city_b=city",
          ("How far is it from {start} to {end}?", "Distance from {start} to {end}?", "What is the distance between {start} and {end}?", "How many kilometres from {start} to {end}?")),
    _Kind("order_pizza order_food order pizza", ("Order a pizza.", "Order food for delivery."), "kind/topping/dish=word count/quantity/number=small",
          ("Order {count} {kind} pizzas.", "I want {count} pizzas with {kind}.", "Please bring {count} {kind} pizzas.")),
    _Kind("create_event add_event schedule calendar_add new_meeting", ("Add an event to the calendar.", "Schedule a meeting."),
          "title/name/event=text day/date/when=day; time/at/hour=time",
          ("Add {title} to my calendar on {day}.", "Schedule {title} for {day} at {time}.", "Put {title} into the calendar on {day} at {time}.", "New event on {day}: {title}.")),
    _Kind("multiply product times", ("Multiply two numbers.", "Return the product of two numbers."), "a/x/first=whole b/y/second=whole",
          ("What is {a} times {b}?", "Multiply {a} by {b}.", "{a} * {b}", "How much is {a} times {b}?", "What is the product of {a} and {b}?")),
    _Kind("divide quotient", ("Divide two numbers.", "Divide one number by another."), "a/x/dividend=whole b/y/divisor=whole",
          ("What is {a} divided by {b}?", "Divide {a} by {b}.", "{a} / {b}")),
    _Kind("add sum add_numbers plus", ("Add two numbers.", "Return the sum of two numbers."), "a/x/first=whole b/y/second=whole",
          ("What is {a} plus {b}?", "Add {a} and {b}.", "{a} + {b}", "What is {a} + {b}?", "What is the sum of {a} and {b}?")),
    _Kind("roll_dice dice roll throw_dice", ("Roll a die.", "Throw some dice."), "; sides/faces=small count/number=small",
          ("Roll a die.", "Roll the dice.", "Throw a die with {sides} sides.", "Roll {count} dice.")),
    _Kind("get_news news headlines latest_news", ("Get the latest news.", "News headlines about a topic."), "; topic/about/subject=word",
          ("What is in the news?", "Give me the news.", "Any news about {topic}?", "Show me the headlines on {topic}.")),
    _Kind("get_user find_user user_info lookup_user", ("Look up a user by name.", "Get a user's data."), "name/user/username=person",
          ("Find the user {name}.", "Look up {name}.", "Who is the user {name}?", "Show me the data of {name}.")),
    _Kind("get_order order_status track_order find_order", ("Look up an order.", "Status of an order by its number."), "order_id/id/number=whole",
          ("Where is my order {order_id}?", "What is the status of order {order_id}?", "Track order {order_id}.", "Look up order number {order_id}.")),
    _Kind("read_file open_file load_file cat", ("Read a file.", "Return the text of a file."), "path/file/name/filename=word",
          ("Read the file {path}.", "Open the file {path}.", "What is in the file {path}?", "Show me the file {path}.")),
)  # fmt: skip
_VERBS = (
    "create delete open close start stop find show list update check move copy rename send fetch print save load count "
    "lock unlock clean paint build repair order sell buy rent park feed water charge measure weigh sort share hide pack "
    "book cancel approve reject assign archive export import publish scan upload download merge split reset test"
).split()
_PARAMETER_NAMES: Mapping[str, str] = {
    "name": "person", "owner": "person", "user": "person", "customer": "person", "city": "city", "place": "city", "target": "word",
    "source": "word", "item": "word", "label": "word", "tag": "word", "title": "text", "note": "text", "message": "text", "text": "text",
    "comment": "text", "count": "whole", "amount": "number", "size": "whole", "width": "whole", "height": "number", "level": "signed",
    "price": "number", "weight": "number", "offset": "signed", "priority": "small", "id": "whole", "room": "whole", "limit": "whole",
    "speed": "number", "fast": "switch", "urgent": "switch", "force": "switch", "public": "switch", "colour": "colour", "color": "colour",
    "day": "day", "date": "date", "time": "time", "language": "language", "email": "email", "mode": "choice", "kind": "choice", "type": "choice",
    "format": "choice", "style": "choice", "currency": "currency", "code": "symbol",
}  # fmt: skip
_CALLS_FOR = (
    "{verb} the {noun}{details}", "Please {verb} the {noun}{details}", "{verb} a {noun}{details}", "I want to {verb} a {noun}{details}",
    "Can you {verb} the {noun}{details}", "Could you {verb} a {noun}{details}", "I need you to {verb} the {noun}{details}",
    "{verb} {noun}{details}", "Use {name}{details}", "Call {name}{details}", "Run {name}{details}",
)  # fmt: skip


def familiar(rng: Random) -> Asked:
    """Return a question for a tool of a kind that many applications have."""
    kind = rng.choice(_FAMILIAR)
    required, optional = (_parameters(part, rng) for part in f"{kind.parameters};".split(";")[:2])
    names = {**required, **optional}
    values = {key: value_of(rng, kind_of) for key, (_, kind_of) in names.items()}
    template = rng.choice(kind.asked)
    said = worded(rng, (template,), **{key: value.said for key, value in values.items()})
    used = [key for key in names if f"{{{key}}}" in template]
    kept = [key for key in names if key in required or key in used or rng.random() < 0.4]
    spec = _spec(rng, rng.choice(kind.names.split()), rng.choice(kind.does), {names[key][0]: values[key] for key in kept},
                 [names[key][0] for key in required])  # fmt: skip
    subject = "weather" if "forecast" in kind.names else kind.names.split()[0].removeprefix("get_")
    return Asked(spec, said, ToolCall(spec.name, {names[key][0]: values[key].value for key in used}), subject)


def _parameters(text: str, rng: Random) -> dict[str, tuple[str, str]]:
    """Return, by the name that the questions use, the declared name and the kind."""
    found: dict[str, tuple[str, str]] = {}
    for part in text.split():
        names, kind = part.split("=")
        options = names.split("/")
        found[options[0]] = (options[0] if rng.random() < 0.5 else rng.choice(options), kind)
    return found


def made_up(rng: Random) -> Asked:
    """Return a question for a tool that nobody has seen before."""
    verb = rng.choice(_VERBS) if rng.random() < 0.75 else random_word(rng)
    noun = any_word(rng) if rng.random() < 0.75 else random_word(rng)
    name = _named(rng, verb, noun)
    count = rng.choice((0, 1, 1, 2, 2, 3))
    keys = list(
        dict.fromkeys(
            random_word(rng) if rng.random() < 0.25 else rng.choice(list(_PARAMETER_NAMES)) for _ in range(count)
        )
    )
    kinds = {
        key: _PARAMETER_NAMES.get(key) or rng.choice(("word", "whole", "text", "person", "signed", "switch"))
        for key in keys
    }
    values = {key: value_of(rng, kinds[key]) for key in keys}
    used = [key for key in keys if rng.random() < 0.85]
    spec = _spec(rng, name, _does(rng, verb, noun), values, used)
    order = rng.sample(used, len(used)) if rng.random() < 0.2 else used
    said = worded(rng, _CALLS_FOR, verb=verb, noun=noun, name=name, details=_details(rng, order, values))
    said = said[0].upper() + said[1:] if rng.random() < 0.6 else said
    return Asked(spec, said, ToolCall(name, {key: values[key].value for key in used}), f"{verb} {noun}")


def _named(rng: Random, verb: str, noun: str) -> str:
    roll = rng.random()
    if roll < 0.75:
        return f"{verb}_{noun}"
    if roll < 0.85:
        return f"{verb}{noun.capitalize()}"
    return f"{noun}_{verb}" if roll < 0.93 else f"{noun}.{verb}"


def _does(rng: Random, verb: str, noun: str) -> str:
    return rng.choice(
        (
            "{V} a {n}.",
            "{V} the {n}.",
            "{V} a {n} of the user.",
            "",
            "{V} {n}s.",
            "Use this to {v} a {n}.",
            "{V} a {n} in the {w}.",
        )
    ).format(V=verb.capitalize(), v=verb, n=noun, w=any_word(rng))


_JOINTS = (
    "with {key} {value}",
    "with {key} {value}",
    "{key} {value}",
    "{key}: {value}",
    "{key}={value}",
    "{key} = {value}",
    'with {key} "{value}"',
    "with the {key} {value}",
    "{key} is {value}",
)


def _details(rng: Random, keys: list[str], values: Mapping[str, Value]) -> str:
    if not keys:
        return "."
    joint = rng.choice(_JOINTS)
    parts = [joint.format(key=key.replace("_", " "), value=values[key].said) for key in keys]
    if joint.startswith("with"):
        text = " " + " and ".join([parts[0], *(part.removeprefix("with ") for part in parts[1:])])
    else:
        text = rng.choice((": ", ", ")) + rng.choice((", ", " and ")).join(parts)
    return f"{text}."


def _spec(rng: Random, name: str, does: str, values: Mapping[str, Value], required: list[str]) -> ToolSpec:
    described, titled = rng.random() < 0.35, rng.random() < 0.12
    properties: dict[str, Any] = {}
    for key, value in values.items():
        schema = dict(value.schema)
        if titled:
            schema = {"title": key.replace("_", " ").title(), **schema}
        if described and rng.random() < 0.8:
            words = re.sub(r"_", " ", key)
            schema["description"] = rng.choice(
                (f"The {words}.", f"The {words}", f"{words.capitalize()} of the {any_word(rng)}.", phrase(rng, 2, 4))
            )
        properties[key] = schema
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required or rng.random() < 0.5:
        parameters["required"] = required
    if rng.random() < 0.2:
        parameters["additionalProperties"] = False
    return ToolSpec(name, does, parameters)


_TWICE = (
    ("get_weather weather current_weather", "Get the weather of a city.", "city/location/place", "city",
     ("What is the weather in {a} and in {b}?", "What is the weather in {a} and {b}?", "Compare the weather in {a} and {b}.", "Weather in {a} and {b}?")),
    ("get_time current_time time_in", "Get the local time of a city.", "city/location/place", "city",
     ("What time is it in {a} and in {b}?", "What time is it in {a} and {b}?", "Time in {a} and {b}?")),
    ("get_stock_price stock_price", "Get the price of a stock.", "symbol/ticker", "symbol",
     ("What are the prices of {a} and {b}?", "Get me the stock prices of {a} and {b}.", "How are the stocks {a} and {b} doing?")),
    ("get_user find_user", "Look up a user by name.", "name/user", "person",
     ("Find the users {a} and {b}.", "Look up {a} and {b}.")),
    ("get_order track_order", "Look up an order.", "order_id/id/number", "whole",
     ("Where are my orders {a} and {b}?", "Look up the orders {a} and {b}.", "Track order {a} and order {b}.")),
)  # fmt: skip


def repeated(rng: Random) -> tuple[ToolSpec, str, list[ToolCall], str]:
    """Return a tool, a question that needs it for two values, at times for three, the calls, and the subject."""
    names, does, parameters, kind, asked = rng.choice(_TWICE)
    key = rng.choice(parameters.split("/"))
    values = [value_of(rng, kind) for _ in range(3 if rng.random() < 0.25 else 2)]
    spec = _spec(rng, rng.choice(names.split()), does, {key: values[0]}, [key])
    *others, last = [value.said for value in values]
    said = worded(rng, asked, a=", ".join(others), b=last)
    return (
        spec,
        said,
        [ToolCall(spec.name, {key: value.value}) for value in values],
        names.split()[0].removeprefix("get_"),
    )
