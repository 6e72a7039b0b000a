# ruff: noqa: E501 - word lists read best as they stand
"""Harmless turns that look harmful: figures of speech, questions about harm, victims' questions, care for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.nano.training.guard.data.requests import FRAMES, about

if TYPE_CHECKING:
    from llama4_local.nano.training.guard.data.choices import Choices, Words

_FIGURES: Words = (
    "kill a frozen process", "kill a Python process", "kill weeds in the garden", "kill time at the airport", "kill the background task", "shoot a portrait", "shoot a short film", "shoot photos at night", "shoot hoops", "steal the show", "steal second base in baseball", "make a bath bomb", "build a bath bomb set", "buy a glue gun",
    "use a nail gun safely", "use a heat gun on paint", "make a seed bomb for bees", "make a cherry bomb dessert", "attack the king in chess", "attack a maths problem", "hack my morning routine", "hack together a quick prototype", "break into song", "break into the film industry", "break the ice at a party", "break a world record",
    "rob a video game boss of its armour", "crack an egg", "crack a walnut", "crack the coding interview", "crack a whip in a circus", "hang a painting", "hang wallpaper", "cut a cake", "cut my hair", "cut costs", "burn a CD", "burn calories", "burn incense", "blow up a balloon", "blow up an air mattress", "blow up a photo to poster size", "explode a drawing into layers",
    "pick a lock in a video game", "pick my own lock when the key broke", "pick a pocket knife for camping", "hide Easter eggs", "hide a layer in a drawing", "spy a rare bird", "track a storm", "follow my favourite band", "watch a film with my neighbour", "write a spy novel", "write a crime novel", "write a story about a bank robbery", "draw a cartoon pirate with a sword",
    "beat my brother at chess", "beat egg whites", "beat the traffic", "poison-proof my house for a toddler", "strike a match", "strike a deal", "hit the gym", "hit a tennis ball", "stab a potato before baking", "choke up on a bat", "drown out noise", "execute a command", "execute a plan", "terminate a contract", "terminate a thread", "abort a download",
    "fork a child process", "kill a zombie process", "dump a core file", "inject a dependency", "sniff packets on my own network for a course", "brute-force a puzzle", "train a virus scanner", "exploit a sunny day", "trigger a build", "fire an event in JavaScript", "load a magazine into a printer tray", "reload a page", "bomb a test and recover", "make a killer playlist",
    "survive a deadly boring meeting", "murder a song at karaoke", "catch a train", "catch a thief in a board game", "throw a surprise attack in a strategy game", "defuse a tense situation", "target a keyword", "launch a product", "launch a model rocket with my club", "set off fireworks where it is allowed", "plant seeds in secret for a surprise", "smuggle a puppy into a birthday surprise",
    "starve weeds of light", "end a meeting", "end a sentence well", "jump off a diving board", "jump rope", "take pills on time", "take a shot at goal", "take a bus", "overdose a plant with water and save it", "punish a bad chess move", "bleed a radiator", "bleed the brakes of my bike", "stop eating sweets", "die in a video game less often", "make gun-shaped cookies for a party",
)  # fmt: skip
_VERBS: Words = (
    "kill", "shoot", "steal", "hack", "break", "attack", "hit", "cut", "burn", "blow up", "rob", "crack", "hang", "bomb", "crash", "flood", "track", "follow", "spy", "destroy", "hurt", "poison", "stab", "drown", "punish", "starve", "hijack", "plant", "fire", "execute", "terminate", "overload", "snatch", "lift", "pinch", "storm", "ambush",
)  # fmt: skip
_TARGETS: Words = (
    "a balloon", "the lights", "a process", "the engine of my car", "weeds", "time", "a portrait", "a film scene", "the show", "a glance at the menu", "my morning routine", "the ice at a party", "an egg", "a nut", "a puzzle", "a picture on the wall", "a cake", "a candle", "paper", "old wood in the stove", "a parcel that I ordered", "my own phone", "a recipe", "the stars",
    "a sand castle", "a bad habit", "a record", "the dough", "a ball", "a drum", "a nail with a hammer", "a tree in the garden", "a test at school", "a video game level", "a chess piece", "a program of my own", "my own test server", "a lawn with water", "the bathtub", "a tomato", "a potato with a fork", "costs", "calories", "the headline", "a command", "a plan", "a goal",
)  # fmt: skip
_VICTIMS: Words = (
    "How do I stop {who} from {harm}?", "I think {who} is {harm}. What can I do?", "Someone is {harm}. Whom do I call?", "What should I do when {who} is {harm}?", "Is it legal when {who} is {harm}?", "How do I report {who} for {harm}?", "How can I protect myself against {who} {harm}?", "My sister says that {who} is {harm}. How can I help her?", "Why would {who} be {harm}?",
)  # fmt: skip
_HARMS: Words = (
    "following me", "spying on me", "reading my messages", "stealing from me", "hacking my account", "threatening me", "hurting me", "tracking my phone", "hitting my brother", "posting my photos", "breaking into my house", "calling me at night", "stalking my sister", "sending me viruses", "taking my things",
)  # fmt: skip
_ABOUT: Words = (
    "Who invented {weapon}?", "What is the history of {weapon}?", "When was {weapon} first used in a war?", "How many countries have banned {weapon}?", "Is it legal to own {weapon}?", "What does the law say about {weapon}?", "Which museum shows {weapon}?", "How do the police find {weapon}?", "What should I do if I find {weapon} in the woods?",
    "I found {weapon} on the beach, whom do I call?", "How do experts make {weapon} safe?", "Why is {weapon} dangerous?", "How can we keep {weapon} out of {place}?", "Which film has a scene with {weapon}?", "What is {weapon}?", "Someone threatened {place}. Whom do I call?", "How do I get out of {place} in an emergency?", "How do schools prepare for an attack?",
    "{Loot} was stolen from me. What should I do?", "Somebody tried to steal {loot} from us, how do we report it?", "How do I insure {loot}?", "Where do I buy {loot}?", "How much does {loot} cost?", "How do I protect {loot} from thieves?", "I lost {loot}. Where do I ask?", "How do I prove that {loot} is mine?", "How do shops prevent theft?", "Why do people steal?",
    "What is the punishment for theft?", "How do I make {house} safer against burglars?", "Which alarm is good for {house}?", "How do I rent {house}?", "My key broke, who opens {house} for me?", "A burglar was in {house}. What now?", "How do I sell {house}?", "How do locks work?", "What is a good lock for {house}?",
    "How do I remove {malware} from my laptop?", "How does antivirus software find {malware}?", "What is {malware}?", "How can I protect my computer against {malware}?", "My computer has {malware}, what should I do?", "How do companies defend themselves against {malware}?", "Who wrote the first computer virus?", "How do I recognise {malware}?", "Report {malware} to whom?",
    "How do I make {site} safer?", "How do I log in to {site}?", "Why is {site} down?", "How do I build {site}?", "I forgot my own password for {site}. How do I reset it?", "How do I delete my account at {site}?", "How do I report a security hole in {site}?", "How do I become a security researcher?", "How do I choose a strong password?",
    "How do I write to {who}?", "What should I give {who} for a birthday?", "How do I apologise to {who}?", "How do I invite {who} to dinner?", "How do I introduce myself to {who}?", "How do I stop {who} from following me?", "I think {who} is spying on me. What can I do?", "How do I share my own location with {who}?", "How do I block {who} on my phone?", "How do I protect my own privacy?",
    "What does the law say about privacy?", "How do I delete my data from a website?", "How do I change my own address at the town hall?", "How do I find my own medical records?", "What is personal data?", "How do I ask {who} for a photo?", "May I record {who} with consent?", "Where can I send a letter to {who}'s office?", "How do I keep my diary private?",
)  # fmt: skip
_CARE: Words = (
    "My friend wants to hurt herself. How can I help her?", "My brother talks about suicide. What should I do?", "How do I talk to my son about self-harm?", "Where do people who feel hopeless get help?", "What is the number of a crisis line?", "How can teachers notice that a pupil harms himself?", "What are signs of depression?", "How do I help a friend with an eating disorder?",
    "I feel sad today. What could cheer me up?", "I am lonely. What can I do?", "I am so tired, how do I sleep better?", "My exam went badly and I feel terrible.", "How do I cope with stress?", "My dog died and I miss him.", "I cut myself while cooking. How do I clean the wound?", "I burned my hand on the stove, what helps?", "I hurt my knee when I ran. What should I do?", "I hit my head, when should I see a doctor?",
    "How much of this medicine is safe for a child?", "How many pills may I take for a headache?", "How do therapists help people who harm themselves?", "I want to stop hurting myself. Who can help me?", "How do I support my sister after a breakdown?", "What do I say to a friend who lost her mother?", "How do I find a therapist?", "Is it normal to cry a lot?", "What is the best way to lose two kilos in a healthy way?",
    "How does a crisis line work?", "What helps against panic?", "My throat hurts, what can I drink?", "How do I bandage a cut?", "How can a family prevent suicide?", "What do doctors do after an overdose?", "How do I eat well when I have no appetite?", "I could die of laughter, tell me another joke!", "I'm dying to see that film.", "This homework is killing me.", "You nailed it!", "That joke killed me.", "I would kill for a coffee.",
)  # fmt: skip


def lookalike(choices: Choices) -> str:
    """Return a harmless turn that resembles a harmful one."""
    roll = choices.rng.random()
    if roll < 0.25:
        return choices.one(FRAMES).format(r=choices.one(_FIGURES))
    if roll < 0.4:
        return choices.one(FRAMES).format(r=f"{choices.word(_VERBS)} {choices.word(_TARGETS)}")
    if roll < 0.5:
        return choices.one(_VICTIMS).format(who=about(choices)["who"], harm=choices.word(_HARMS))
    if roll < 0.8:
        things = about(choices)
        things["Loot"] = things["loot"][0].upper() + things["loot"][1:]
        text = choices.one(_ABOUT).format(**things)
        return text[0].upper() + text[1:]
    return choices.one(_CARE)
