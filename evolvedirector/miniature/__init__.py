"""The embedded world: grammar, artists and reader; needs no download."""

from evolvedirector.miniature.artist import draw
from evolvedirector.miniature.atoms import Atom, answer, atoms_of, faithfulness, matches
from evolvedirector.miniature.gold import MiniatureGold
from evolvedirector.miniature.grammar import parse, phrase, scenes, skill_of
from evolvedirector.miniature.held_out import HeldOutPrompts
from evolvedirector.miniature.judge import MiniatureJudge
from evolvedirector.miniature.prompts import MiniaturePrompts
from evolvedirector.miniature.reader import read
from evolvedirector.miniature.reading import Reading, SeenObject
from evolvedirector.miniature.scene import Scene, Thing
from evolvedirector.miniature.teacher import MiniatureTeacher
from evolvedirector.miniature.weaknesses import Weaknesses
from evolvedirector.miniature.world import SKILLS, World
from evolvedirector.miniature.writer import MiniatureWriter

__all__ = [
    "SKILLS",
    "Atom",
    "HeldOutPrompts",
    "MiniatureGold",
    "MiniatureJudge",
    "MiniaturePrompts",
    "MiniatureTeacher",
    "MiniatureWriter",
    "Reading",
    "Scene",
    "SeenObject",
    "Thing",
    "Weaknesses",
    "World",
    "answer",
    "atoms_of",
    "draw",
    "faithfulness",
    "matches",
    "parse",
    "phrase",
    "read",
    "scenes",
    "skill_of",
]
