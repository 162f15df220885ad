"""The words of the command line, as the front door and shell completion know them."""

LIGHTNING_WORDS = ("fit", "validate", "test", "predict")
FURTHER_WORDS = (
    "check",
    "bench",
    "probe",
    "generate",
    "export",
    "merge",
    "compare",
    "data",
    "embed",
    "pairs",
    "assets",
    "report",
    "judge",
    "teach",
    "work",
    "doctor",
    "completion",
    "copy-configs",
)

_GENERATE = (
    '`evolvedirector generate RUN --prompts "a red circle"` lets a trained student draw; `evolvedirector teach --draw'
    " PROMPT --teacher FILE` asks a teacher"
)
_EXPORT = "`evolvedirector export RUN FOLDER` writes a trained student as a diffusers folder"
_MERGE = "`evolvedirector merge A.safetensors B.safetensors -o C.safetensors` makes one LoRA of several"
_FIT = "`evolvedirector fit -c quickstart` trains a student; `--ckpt_path last` goes on with a run"
_MEASURE = "`evolvedirector validate -c ... --ckpt_path last` measures a student without training it"
_CHECK = "`evolvedirector check -c ...` says what a run would do and cost, without starting it"
_BENCH = "`evolvedirector bench -c ...` measures how fast a run trains, draws, judges and buys"
_RECIPES = "`-c quickstart` takes a packaged recipe, `evolvedirector copy-configs configs` copies all of them"
HINTS = {
    **dict.fromkeys(("train", "finetune", "fine-tune", "run", "start", "resume", "continue"), _FIT),
    **dict.fromkeys(("sample", "draw", "infer", "inference", "txt2img"), _GENERATE),
    **dict.fromkeys(("convert", "save"), _EXPORT),
    **dict.fromkeys(("fuse", "combine", "average"), _MERGE),
    **dict.fromkeys(("serve", "server"), (
        "`evolvedirector teach --serve --teacher FILE` serves a teacher under the OpenAI Images protocol. No command"
        " serves a student yet"
    )),
    **dict.fromkeys(("evaluate", "eval", "measure"), _MEASURE),
    **dict.fromkeys(("benchmark", "profile", "speed"), _BENCH),
    **dict.fromkeys(("plan", "cost", "estimate", "dry-run"), _CHECK),
    **dict.fromkeys(("init", "new", "config", "configs", "recipes", "list", "copy"), _RECIPES),
    **{word: f"`evolvedirector data {word} ROOT` does that" for word in ("import", "add", "retire", "keys", "show")},
    **{word: f"`evolvedirector data {word} ROOT` does that" for word in ("compact", "collect", "push")},
    **{word: f"`evolvedirector report --{word} RUN` does that" for word in ("watch",)},
    **{word: f"`evolvedirector judge {word}` does that" for word in ("calibrate",)},
    **{word: f"`evolvedirector --{word}` does that" for word in ("help", "version")},
}  # fmt: skip
"""What to write in place of a word that people look for and that is none of ours."""
