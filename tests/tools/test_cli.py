"""Options: how they may be written, what a recipe may hold, and how a wrong one is answered."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from backbones import UserError
from tools.cli import describe, option_types, parse, run_tool, spell_out
from tools.config import Compare, Evaluate, MetaTrain, Pretrain, SelfDistill
from tools.groups import Optim
from tools.limits import PRECISIONS, out_of_range

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "pretrain": Pretrain,
    "meta_train": MetaTrain,
    "self_distill": SelfDistill,
    "evaluate": Evaluate,
    "demo": Compare,
}


def refusal(capsys, config_class, *argv: str) -> str:
    """The one sentence with which these flags are refused."""
    with pytest.raises(SystemExit) as stopped:
        parse(config_class, "script", list(argv))
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_without_flags_the_defaults_hold(name):
    assert parse(SCRIPTS[name], name, []) == SCRIPTS[name]()


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_the_printed_configuration_is_a_recipe(name, tmp_path, capsys):
    flags = ["--run", "somewhere", "--machine.precision", "bf16-mixed"]
    with pytest.raises(SystemExit) as stopped:
        parse(SCRIPTS[name], name, [*flags, "--print_config"])
    assert stopped.value.code in (0, None)
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["machine"]["precision"] == "bf16-mixed"
    (tmp_path / "recipe.yaml").write_text(text)
    assert parse(SCRIPTS[name], name, ["--config", str(tmp_path / "recipe.yaml")]) == parse(
        SCRIPTS[name], name, flags
    )  # fmt: skip


def test_flags_win_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 7\noptim:\n  lr: 0.2\n  milestones: [3, 4]\nmodel:\n  head: {C: 2.0}\n")
    config = parse(Pretrain, "pretrain", ["--config", str(recipe), "--optim.lr", "0.3"])
    assert (config.seed, config.optim.lr, config.optim.milestones) == (7, 0.3, [3, 4])
    assert config.optim.momentum == Optim().momentum
    assert config.model.head == {"C": 2.0}


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--data.skip-broken", "true"], "data.skip_broken", True),
        (["--skip-broken"], "data.skip_broken", True),
        (["--data.skip_broken=false"], "data.skip_broken", False),
        (["--resume", "--seed", "3"], "resume", True),
        (["--resume", "false"], "resume", False),
        (["--optim.milestones", "3", "5"], "optim.milestones", [3, 5]),
        (["--milestones", "3"], "optim.milestones", [3]),
        (["--optim.milestones", "[3, 5]"], "optim.milestones", [3, 5]),
        (["--optim.milestones=3"], "optim.milestones", [3]),
        (["--model.backbone_options", "{width: 8}"], "model.backbone_options", {"width": 8}),
        (["--model.backbone-options.width", "8"], "model.backbone_options", {"width": 8}),
        (["--optim.clip_norm", "null"], "optim.clip_norm", None),
        (["--data.train", "pack.zip?by=mod5&split=train"], "data.train", "pack.zip?by=mod5&split=train"),
        (["--data.train=a-b=c"], "data.train", "a-b=c"),
    ],
)
def test_ways_to_write_an_option(argv, key, value):
    config = parse(Pretrain, "pretrain", argv)
    for part in key.split("."):
        config = getattr(config, part)
    assert config == value


def test_lists_of_text_need_no_brackets():
    config = parse(Evaluate, "evaluate", ["--test", "glyphs:greek,latin?size=16", "a b/c", "--k-shot", "1", "5", "10"])
    assert config.test == ["glyphs:greek,latin?size=16", "a b/c"]
    assert config.k_shot == [1, 5, 10]


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        ([], "cache", "disk"),
        (["--no-cache"], "cache", "none"),
        (["--cache", "memory"], "cache", "memory"),
        (["--no-pictures", "--no_cache"], "pictures", False),
    ],
)
def test_saying_no(argv, key, value):
    assert getattr(parse(Evaluate, "evaluate", argv), key) == value


@pytest.mark.parametrize("argv", [["--no-seed"], ["--no-cache", "5"], ["--no-cache=5"]])
def test_no_is_said_to_choices_alone(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Evaluate, "evaluate", argv)
    assert stop.value.code == 2
    assert "no_" in capsys.readouterr().err


def test_a_short_name_must_be_unique():
    """k_shot is in two groups of meta-training: it stays as it is and is refused."""
    kinds = option_types(MetaTrain)
    assert spell_out(["--k_shot", "5"], kinds) == ["--k_shot", "5"]
    assert spell_out(["--accumulate", "5"], kinds) == ["--optim.accumulate", "5"]
    assert spell_out(["--out", "a"], {**kinds, "run": str}) == ["--run", "a"]  # for torchrun, which takes --run itself


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--data.trian", "x"], "did you mean 'data.train'?"),
        (["--optim.epoch", "3"], "did you mean 'optim.epochs'?"),
        (["--overwrit", "true"], "did you mean 'overwrite'?"),
        (["--data.size", "abc"], "data.size must be a whole number or null, not abc"),
        (["--optim.epochs", "1.5"], "optim.epochs must be a whole number, not 1.5"),
        (["--optim.lr", "fast"], "optim.lr must be a number, not fast"),
        (["--optim.name", "sdg"], "optim.name must be one of sgd, adam, adamw, not sdg"),
        (["--optim.milestones", "a"], "optim.milestones must be a list of values, each a whole number"),
        (["--resume", "maybe"], "resume must be true or false, not maybe"),
        (["--optim", "3"], "optim is a group of options, such as optim.epochs"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_wrong_flags(capsys, argv, words):
    assert words in refusal(capsys, Pretrain, *argv)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "recipe.yaml' is empty"),
        (b"# a comment only\n", "recipe.yaml' is empty"),
        (b"hello\n", "recipe.yaml' holds no options"),
        (b"- 1\n", "recipe.yaml' holds no options"),
        (b"optim:\n  lr: [1\nseed: 2\n", "recipe.yaml' is not YAML, line 3, column 5: "),
        (b"a: \x07\n", "recipe.yaml' is not YAML: "),
        (b"\xff\xfe\x00", "recipe.yaml' is not a text file"),
    ],
)
def test_a_recipe_without_options_is_named(tmp_path, capsys, content, words):
    (tmp_path / "recipe.yaml").write_bytes(content)
    assert words in refusal(capsys, Pretrain, "--config", str(tmp_path / "recipe.yaml"))
    assert words in refusal(capsys, Pretrain, f"--config={tmp_path / 'recipe.yaml'}")


def test_numbers_are_refused_before_torch_is_imported():
    code = (
        "import sys\nfrom tools.cli import run_tool\nfrom tools.config import Pretrain\n"
        "try:\n    run_tool(Pretrain, 'pretrain', print, ['--validation.k_shot', '0'])\n"
        "except SystemExit:\n    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert done.stderr == "error: validation.k_shot must be at least 1, not 0\n"


def test_precisions_are_those_of_fabric():
    from lightning_fabric import plugins

    known = vars(plugins.precision.precision)
    names = {str(n) for key in ("_PRECISION_INPUT_STR", "_PRECISION_INPUT_STR_ALIAS") for n in get_args(known[key])}
    assert set(PRECISIONS) == names


def test_numbers_of_every_group_are_checked():
    assert out_of_range(Compare(seeds=[1, -1])) == "seeds is [1, -1]: each must be at least 0"
    assert out_of_range(Compare(meta=Optim(lr=0))) == "meta.lr must be above 0, not 0"
    assert out_of_range(Compare(pretrain=Optim(momentum=0))).endswith("pretrain.momentum, or --pretrain.nesterov false")
    assert out_of_range(MetaTrain()) is None  # null validation sizes are the training's


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sed: 3\n", "did you mean 'seed'?"),
        ("optim:\n  epoch: 3\n", "did you mean 'optim.epochs'?"),
        ("optimm:\n  epochs: 3\n", "did you mean 'optim.epochs'?"),
        ("optim:\n  epochs: many\n", "optim.epochs must be a whole number, not many"),
        ("optim: 3\n", "optim is a group of options"),
        ("optim: {epochs: [3}\n", "is not YAML, line 1"),
    ],
)
def test_wrong_recipes(capsys, tmp_path, text, words):
    (tmp_path / "recipe.yaml").write_text(text)
    assert words in refusal(capsys, Pretrain, "--config", str(tmp_path / "recipe.yaml"))


def test_a_recipe_that_is_not_there(capsys, tmp_path):
    (tmp_path / "protonet.yaml").write_text("seed: 1\n")
    assert "does not exist; did you mean" in refusal(capsys, Pretrain, "--config", str(tmp_path / "protonett.yaml"))
    assert "is not a file" in refusal(capsys, Pretrain, "--config", str(tmp_path))


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_every_option_has_a_type_in_words_and_a_help_text(name):
    for key, kind in option_types(SCRIPTS[name]).items():
        assert "typing" not in describe(kind), key
        assert "class" not in describe(kind), key


def job_that_raises(error: Exception):
    def job(config):
        raise error

    return job


def test_bad_input_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_tool(Evaluate, "evaluate", job_that_raises(UserError("folder 'x' is empty: fill it")), [])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: folder 'x' is empty: fill it\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_is_one_sentence(capsys, number):
    with pytest.raises(SystemExit) as stopped:
        run_tool(Evaluate, "evaluate", job_that_raises(OSError(number, "no luck", "runs/last.ckpt")), [])
    assert stopped.value.code == 2
    assert "no luck: runs/last.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("bug"), FileNotFoundError(errno.ENOENT, "bug"), RuntimeError("bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match="bug"):
        run_tool(Evaluate, "evaluate", job_that_raises(error), [])


def test_an_interruption_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_tool(Pretrain, "pretrain", job_that_raises(KeyboardInterrupt()), [])
    assert stopped.value.code == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_the_scripts_answer_from_the_command_line(name):
    command = [sys.executable, "-m", f"tools.{name}", "--machine.acelerator", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean 'machine.accelerator'?" in done.stderr
    assert "Traceback" not in done.stderr
