"""`npdiff trace` as a user meets it."""

import json

import pytest
import textbook_step

from npdiff.app.cli import main


def printed(capsys, *arguments):
    """What the command prints."""
    main(["trace", *map(str, arguments)])
    captured = capsys.readouterr()
    assert not captured.err
    return captured.out


def test_the_story_is_told_in_order(capsys):
    out = printed(capsys)
    titles = ["what is given", "the schedule", "noise is added to the point", "linear1, forward",
              "linear1.silu, forward", "the loss", "linear2, backward", "linear1, backward",
              "Adam: linear1.W", "the mean of the next point", "one step of the ancestral", "complex_step"]
    places = [out.index(title) for title in titles]
    assert places == sorted(places) and out == printed(capsys, "--text")
    for line in ("dW[i,o] = sum_n x[n,i] dy[n,o]", "here x is x_t, time, W is linear1.W, b is linear1.b",
                 "x_t = a x_0 + sigma noise"):
        assert line in out
    assert "dW = x.T @ dy" in out and "npdiff/nn/linear.py:" in out


def test_a_number_is_opened_down_to_the_data(capsys):
    out = printed(capsys, "--open", "linear1.dW[0,1]", "--point", 1, 2, "--noise", 0.5, -1)
    first, terms, *_ = out.splitlines()
    assert first.startswith("linear1.dW[0,1] = ")
    assert terms.split()[:4] == ["=", "x_t[0,0]", "*", "linear1.silu.dx[0,1]"]
    assert "a[4] * x0[0,0]" in out and "x0[0,0] = 1   given" in out and "--depth 4" in out
    assert len(printed(capsys, "--open", "linear1.dW[0,1]", "--depth", 1).splitlines()) < 10
    alias = printed(capsys, "--open", "linear1.db[1]", "--depth", 1).splitlines()
    assert alias[0] == "linear1.db[1] = linear1.silu.dx[0,1]" and "db[o] = sum_n dy[n,o]" in alias[1]


def test_json_holds_every_number(capsys):
    ledger = json.loads(printed(capsys, "--json", "--seed", 3, "--t", 6))
    assert ledger["settings"]["seed"] == 3 and ledger["settings"]["t"] == 6
    computed, inputs = textbook_step.recompute(ledger)
    assert computed + inputs == len(ledger["numbers"])
    textbook_step.compare_with_textbook(ledger)
    assert ledger["gradients"]["linear1.dW"]["complex_step"] < 1e-14


@pytest.mark.parametrize("arguments, message", [
    (["--t", "11"], "t is 11; it must lie in 1..10"), (["--t", "1.5"], "--t"), (["--point", "1"], "--point"),
    (["--point", "nan", "1"], "point is (nan, 1.0); it must be 2 numbers from -100 to 100"),
    (["--noise", "0", "1e9"], "noise is (0.0, 1000000000.0)"), (["--seed", "-1"], "seed is -1"),
    (["--open", "linear1.dW[0,9]"], "perhaps you meant linear1.dW[0,"),
    (["--open", ""], "no number is called"),
    (["--open", "loss", "--depth", "0"], "depth is 0; it must be at least 1"),
    (["--text", "--json"], "--text, --json and --open exclude each other")])
def test_a_wrong_value_ends_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trace", *arguments])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and message in captured.err and not captured.out
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
