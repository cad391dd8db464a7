"""The README is short, and what it says about the code is true."""

import re
from pathlib import Path

import numpy as np
import pytest

from npdiff.nn import linear_backward, linear_forward

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FOLDERS = ["examples", "reference", "tests"]
PAGES = ["README.md", ".github/CONTRIBUTING.md", *(f"{folder}/README.md" for folder in FOLDERS)]


def test_it_is_a_page():
    assert len(README.splitlines()) <= 120 and len(README.split()) <= 1000


def test_the_pair_stands_in_it_as_in_the_package():
    source = (ROOT / "npdiff/nn/linear.py").read_text()
    pair = source[source.index("def linear_forward"):].rstrip()
    assert pair in README


def test_the_gradient_worked_out_by_hand():
    _, cache = linear_forward(np.array([[1.0, 2.0], [3.0, -1.0]]), np.zeros((2, 1)), np.zeros(1))
    _, dW, _ = linear_backward(np.array([[0.5], [-1.0]]), cache)
    assert dW.tolist() == [[-2.5], [2.0]]
    assert re.findall(r"dW\[\d,0\] = .*= +(-?[\d.]+)$", README, re.M) == ["-2.5", "2.0"]


def test_the_first_link_is_the_path_in_one_file():
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)]*)\)", README)
    assert links[0] == "examples/00_moons.py"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_named_file_exists(page):
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]*)\)", text) if not link.startswith("http")]
    named = re.findall(r"`((?:npdiff|examples|tests|reference)/[\w./]+)`", text)
    here = (ROOT / page).parent
    missing = [link for link in links if not (here / link).exists()]
    missing += [name for name in named if not ((ROOT / name).exists() or (here / name).exists())]
    assert links + named and not missing


def test_the_page_of_the_tests_names_files_that_exist():
    """They are named from tests/ on."""
    named = re.findall(r"`([\w./]+(?:\.py|\.npz|/))`", (ROOT / "tests/README.md").read_text())
    missing = [name for name in named if not ((ROOT / "tests" / name).exists() or (ROOT / name).exists())]
    assert len(named) > 30 and not missing


@pytest.mark.parametrize("page", PAGES)
def test_prose_ends_by_column_110(page):
    """Tables, pictures and commands may be longer."""
    outside = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    prose = [line for line in outside.splitlines() if not line.startswith(("|", "!"))]
    assert max(map(len, prose)) <= 110
