"""The planted errors: the list is whole, and gradcheck names the function that each is in."""

import sys
from collections import Counter

import pytest

from npdiff import nn
from npdiff.app.cli import main
from npdiff.models import unet
from npdiff.verify.first_wrong import NETWORKS, check_network
from npdiff.verify.mutants import PACKAGE, Mutant, load_mutants, mutated, planted
from npdiff.verify.pairs import PAIRS, check_cases

MUTANTS = load_mutants()
IN_PAIRS = [mutant for mutant in MUTANTS if mutant.file.startswith("nn/")]
IN_NETWORKS = [mutant for mutant in MUTANTS if mutant.file.startswith("models/")]
WALKED = [mutant for mutant in IN_PAIRS if mutant.file != "nn/loss.py" and "stride" not in mutant.name]
by_name = {"ids": lambda mutant: mutant.name}


def test_every_text_stands_once_in_its_file():
    for mutant in MUTANTS:
        source = (PACKAGE / mutant.file).read_text()
        assert mutated(mutant, source) != source
    with pytest.raises(ValueError, match="is 0 times in nn/linear.py; it must be there once"):
        mutated(Mutant("none", "nn/linear.py", "no such text", "", "", ""), "dx = dy @ W.T")


def test_the_list_covers_every_pair_and_network():
    assert len(MUTANTS) >= 40 and len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {mutant.says for mutant in IN_PAIRS} == {f"{name}_backward" for name in PAIRS}
    assert Counter(mutant.file for mutant in IN_NETWORKS).keys() == {
        f"models/{name}.py" for name in ("layers", "blocks", "mlp", "convnet", "unet")}


def network_of(mutant):
    """The networks whose backward has this function in it, the one that shows the error first."""
    name = mutant.says.partition(".")[0]
    configs = NETWORKS.get(name, NETWORKS["unet"])
    return configs[::-1] if mutant.says in ("blocks.plain_block_backward", "unet.stage_backward") else configs


@pytest.mark.parametrize("mutant", IN_PAIRS, **by_name)
def test_a_pair_is_named(mutant):
    with planted(mutant), pytest.raises(ValueError, match=f"{mutant.says} .*{mutant.file}:"):
        check_cases(mutant.says.removesuffix("_backward"), 0)


@pytest.mark.parametrize("mutant", IN_NETWORKS, **by_name)
def test_a_function_of_a_network_is_named(mutant):
    with planted(mutant), pytest.raises(ValueError, match=f"back is {mutant.says}.*{mutant.file}:"):
        for config in network_of(mutant):
            check_network(config, 0)


@pytest.mark.parametrize("mutant", WALKED, **by_name)
def test_a_pair_is_named_inside_a_network(mutant):
    """Every wrong pair spoils many gradients of a network. Only the pair is named, at its first place."""
    points = mutant.says in ("linear_backward", "silu_backward", "fourier_backward")
    name = "mlp" if points else "unet"
    with planted(mutant), pytest.raises(ValueError, match=f"on the way back is nn.{mutant.says}, in .*"):
        for config in NETWORKS[name]:
            check_network(config, 0)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, **by_name)
def test_the_command_names_it(mutant, capsys):
    with planted(mutant), pytest.raises(SystemExit) as stop:
        main(["gradcheck"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert f"{mutant.says} (" in err or f"{mutant.says}, in " in err


def test_planting_leaves_nothing_behind():
    before = {name: getattr(nn, name).__code__ for name in dir(nn) if name.endswith("_backward")}
    for mutant in MUTANTS:
        source = (PACKAGE / mutant.file).read_text()
        with planted(mutant):
            pass
        assert (PACKAGE / mutant.file).read_text() == source
    assert before == {name: getattr(nn, name).__code__ for name in before}
    check_network(NETWORKS["mlp"][0], 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_right_networks_are_right(name, seed):
    for config in NETWORKS[name]:
        errors = check_network(config, seed)
        assert "x" in errors and sys.getprofile() is None


def test_a_function_that_raises_is_named(monkeypatch):
    def wrong(dy, cache):
        raise IndexError("list index out of range")

    monkeypatch.setattr(nn, "upsample_backward", wrong)
    with pytest.raises(ValueError, match="back is nn.upsample_backward, in up1.upsample .*test_mutants"):
        check_network(NETWORKS["unet"][0], 0)
    with pytest.raises(ValueError, match="upsample_backward .*list index out of range"):
        check_cases("upsample", 0)


def test_a_forward_that_is_not_analytic_is_not_called_wrong(monkeypatch):
    """relu for SiLU, right, by abs: nothing is named as wrong, and the reason is given in words."""
    monkeypatch.setattr(nn, "silu_forward", lambda x: ((x + abs(x)) / 2, x))
    monkeypatch.setattr(nn, "silu_backward", lambda dy, x: dy * (x.real > 0))
    for check in (lambda: check_cases("silu", 0), lambda: check_network(NETWORKS["mlp"][0], 0)):
        with pytest.raises(ValueError, match="cannot be checked by complex step.*not analytic"):
            check()
    monkeypatch.setattr(nn, "silu_backward", lambda dy, x: dy * (x.real > 0) * 1.01)
    with pytest.raises(ValueError, match="on the way back is nn.silu_backward, in linear2.silu"):
        check_network(NETWORKS["mlp"][0], 0)


def test_a_backward_that_writes_into_a_shared_dy(monkeypatch):
    """The formula is right, and the block's other use of dy is spoilt: the block is named."""
    right = nn.conv2d_backward

    def in_place(dy, cache):
        gradients = right(dy, cache)
        dy *= 0
        return gradients

    monkeypatch.setattr(nn, "conv2d_backward", in_place)
    with pytest.raises(ValueError, match="on the way back is blocks.residual_block_backward"):
        check_network(unet_without_shortcuts(), 0)


def unet_without_shortcuts():
    return unet.Config(size=2, widths=(4,), groups=2, heads=2, time_dim=4, embedding_dim=3)


def test_the_seed_changes_the_case():
    first, second = (check_network(NETWORKS["mlp"][0], seed) for seed in (0, 1))
    assert first.keys() == second.keys() and first != second
