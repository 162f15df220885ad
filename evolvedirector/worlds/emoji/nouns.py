"""Articles, plurals and measure words of the emoji names: "two foxes", "a pair of scissors", "two loaves of bread"."""

from __future__ import annotations

import re
from functools import lru_cache

# Names that cannot be counted as they are: the word that counts them, and the names.
_MEASURES = {
    "pair": "scissors|glasses|sunglasses|goggles|jeans|shorts|briefs|gloves|socks|skis|maracas|chopsticks|ballet shoes"
    "|eyes|lungs|footprints|paw prints|clapping hands|raising hands|heart hands|open hands|folded hands|chains"
    "|busts in silhouette|people hugging|people with bunny ears|men with bunny ears|women with bunny ears"
    "|people wrestling|men wrestling|women wrestling|clinking beer mugs|clinking glasses|Japanese dolls"
    "|admission tickets|shopping bags|linked paperclips|crossed swords|clockwise vertical arrows|crossed flags",
    "set": "revolving hearts|sweat droplets|sparkles|nesting dolls|flower playing cards|woman’s clothes|musical notes"
    "|control knobs|bookmark tabs|card index dividers|bubbles",
    "bunch": "grapes|cherries",
    "handful": "blueberries|peanuts|beans",
    "head": "broccoli|garlic",
    "loaf": "bread|baguette bread",
    "piece": "flatbread|stuffed flatbread|butter|candy|coral|wood|luggage|sushi|ice",
    "stack": "pancakes|books",
    "strip": "bacon|film frames",
    "portion": "french fries|falafel|popcorn|shaved ice|custard|canned food|oden",
    "bowl": "cooked rice|curry rice|spaghetti",
    "skewer": "dango",
    "shaker": "salt",
    "bottle": "sake|nail polish",
    "cup": "mate",
    "pot": "fondue",
    "row": "houses",
    "burst": "fireworks",
    "ball": "yarn",
    "spool": "thread",
    "bar": "soap",
    "string": "prayer beads",
}
_MEASURE_OF = {label: word for word, labels in _MEASURES.items() for label in labels.split("|")}

_WORDS_OF_SIGNS = (
    "star-struck|rolling on the floor laughing|two hearts|hundred points|dizzy|dashing away|ZZZ|thumbs up"
    "|thumbs down|crossed fingers|pinched fingers|palms up together|breast-feeding|horse racing|cooking"
    "|pouring liquid|camping|building construction|foggy|fog|hot springs|construction|high voltage|light rail"
    "|tennis|bowling|field hockey|ice hockey|lacrosse|ping pong|badminton|performing arts|money with wings|dna"
    "|locked|unlocked|locked with pen|locked with key|potable water|non-potable water|passport control|customs"
    "|baggage claim|left luggage|warning|children crossing|no entry|prohibited|no bicycles|no smoking"
    "|no littering|no pedestrians|no mobile phones|no one under eighteen|radioactive|biohazard|om|yin yang"
    "|Aries|Taurus|Gemini|Cancer|Leo|Virgo|Libra|Scorpio|Sagittarius|Capricorn|Aquarius|Pisces|Ophiuchus"
    "|antenna bars|wireless|vibration mode|mobile phone off|multiply|plus|minus|divide|infinity"
    "|currency exchange|copyright|registered|information|input latin uppercase|input latin lowercase"
    "|input numbers|input symbols|input latin letters|trident emblem|fleur-de-lis"
)
_NO_NOUNS = frozenset(_WORDS_OF_SIGNS.split("|"))
"""Names that are no nouns, or no countable ones: "a warning symbol", "two warning symbols"."""
_CLOCK_TIME = re.compile(r"^\w+(?: o’clock|-thirty)$")
_PROPER = frozenset(("Santa Claus", "Mrs. Claus", "Mx Claus", "mount fuji"))

_IRREGULAR = {
    **{"child": "children", "mouse": "mice", "foot": "feet", "tooth": "teeth", "goose": "geese"},
    **{"ox": "oxen", "leaf": "leaves", "loaf": "loaves", "sheaf": "sheaves", "wolf": "wolves", "knife": "knives"},
    **{"elf": "elves", "scarf": "scarves", "die": "dice", "eyes": "eyes", "crossbones": "crossbones"},
    **dict.fromkeys(("deer", "moose", "bison", "shrimp", "squid", "moai", "biceps"), ""),
}
_OES = ("hero", "potato", "tomato", "mosquito", "volcano", "tornado", "mango", "buffalo")
_SIGNS = ("sign", "symbol", "button")
_POSTMODIFIERS = (
    "with without of in on at behind over for from showing not done facing pointing pointed fluttering curving "
    "increasing decreasing tilted low medium high exhaling vomiting blowing savoring screaming holding lifting"
)
_AFTER_THE_NOUN = frozenset(_POSTMODIFIERS.split())
_PEOPLE = ("person", "man", "woman", "people", "men", "women", "face")
_SOUNDS_LIKE_YOU = ("unic", "unif", "ukulele", "use", "eu", "ewe", "one", "uti")
_SOUNDS_LIKE_A_VOWEL = ("hour", "honest", "heir", "x-ray", "sos ", "ng ", "8")


def article(words: str) -> str:
    """Return the indefinite article that goes before some words, by their sound."""
    first = words.lower()
    vowel = (first[0] in "aeiou" and not first.startswith(_SOUNDS_LIKE_YOU)) or first.startswith(_SOUNDS_LIKE_A_VOWEL)
    return "an" if vowel else "a"


def plural_word(word: str) -> str:
    """Return the plural of one English noun."""
    lower = word.lower()
    if lower in _IRREGULAR:
        return _IRREGULAR[lower] or word
    if lower.endswith("fish"):
        return word
    if lower.endswith("person"):
        return f"{word[:-6]}people"
    if lower.endswith("man"):
        return f"{word[:-2]}en"
    if lower.endswith(("s", "x", "z", "ch", "sh")) or lower.endswith(_OES):
        return f"{word}es"
    if lower.endswith("y") and lower[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


@lru_cache(maxsize=4096)
def singular(label: str) -> str:
    """Return the words for one of a name, without article: "fox", "pair of scissors", "warning symbol"."""
    if label in _MEASURE_OF:
        return f"{_MEASURE_OF[label]} of {label}"
    return f"{label} symbol" if label in _NO_NOUNS or _CLOCK_TIME.match(label) else label


@lru_cache(maxsize=4096)
def plural(label: str) -> str:
    """Return the words for several of a name: "foxes", "pairs of scissors", "ears of corn", "women farmers"."""
    if label in _MEASURE_OF:
        return f"{plural_word(_MEASURE_OF[label])} of {label}"
    words = singular(label).split(" ")
    end = _head_end(words)
    head, rest = words[:end], words[end:]
    if head[0] in ("man", "woman") and len(head) > 1:
        head[0] = plural_word(head[0])
    if "and" in head[1:-1]:
        before = head.index("and") - 1
        head[before] = plural_word(head[before])
    stem = head[-1].rstrip(":")
    head[-1] = plural_word(stem) + head[-1][len(stem) :]
    return " ".join([*head, *rest])


def noun_phrase(label: str, count: int = 1) -> str:
    """Write a number of a name: "a fox", "an avocado", "two pairs of scissors".

    Args:
        label: Name of an emoji.
        count: 1 to 9.
    """
    if count > 1:
        return f"{NUMBER_WORDS[count]} {plural(label)}"
    words = singular(label)
    return words if label in _PROPER else f"{article(words)} {words}"


NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


def _head_end(words: list[str]) -> int:
    """Return how many words there are up to and with the noun that takes the plural."""
    if words[-1] in _SIGNS and "with" not in words[:-1]:
        return len(words)
    for number, word in enumerate(words):
        if word.endswith(":"):
            return number + 1
        if number > 0 and (word in _AFTER_THE_NOUN or word.startswith("(")):
            return number
        if number == 1 and words[0] in _PEOPLE and any(later.endswith("ing") for later in words[1:]):
            return number  # "man mountain biking"
    return len(words)
