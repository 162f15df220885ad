"""The embedded world: grammar, artists and reader; needs no download."""

from evolvedirector.worlds.shapes.artist import draw
from evolvedirector.worlds.shapes.atoms import Atom, answer, atoms_of, faithfulness, matches
from evolvedirector.worlds.shapes.background_noise import CleanBackground, SmoothBackground
from evolvedirector.worlds.shapes.colourfulness import Colourfulness, MeanSaturation
from evolvedirector.worlds.shapes.gold import MiniatureGold
from evolvedirector.worlds.shapes.grammar import parse, phrase, scenes, skill_of
from evolvedirector.worlds.shapes.held_out import HeldOutPrompts, OpenPrompts
from evolvedirector.worlds.shapes.judge import MiniatureJudge
from evolvedirector.worlds.shapes.prompts import MiniaturePrompts
from evolvedirector.worlds.shapes.reader import read
from evolvedirector.worlds.shapes.reading import SeenObject, SeenScene
from evolvedirector.worlds.shapes.scene import Scene, Thing
from evolvedirector.worlds.shapes.symmetry import MirrorOverlap, MirrorSymmetry
from evolvedirector.worlds.shapes.teacher import MiniatureTeacher
from evolvedirector.worlds.shapes.weaknesses import Weaknesses
from evolvedirector.worlds.shapes.world import SKILLS, World
from evolvedirector.worlds.shapes.writer import MiniatureWriter

__all__ = [
    "SKILLS",
    "Atom",
    "CleanBackground",
    "Colourfulness",
    "HeldOutPrompts",
    "MeanSaturation",
    "MiniatureGold",
    "MiniatureJudge",
    "MiniaturePrompts",
    "MiniatureTeacher",
    "MiniatureWriter",
    "MirrorOverlap",
    "MirrorSymmetry",
    "OpenPrompts",
    "Scene",
    "SeenObject",
    "SeenScene",
    "SmoothBackground",
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
