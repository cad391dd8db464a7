"""One DDPM training step and one sampling step from the usual formulas, in plain Python.

Written from the mathematics, and imports nothing of npdiff. Run as a script it reads a ledger's JSON from
standard input, recomputes each of its numbers twice over and prints how many it checked:

    npdiff trace --json | python tests/textbook_step.py
"""

import json
import math
import sys


def arithmetic(number, parents):
    """A number of the ledger from its operation and the values of its parents."""
    op = number["op"]
    if op.startswith("^"):
        return parents[0] ** float(op[1:])
    if op == "neg":
        return -parents[0]
    if op in "+-*/":
        a, b = parents
        return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[op]()
    return getattr(math, op)(*parents)


def recompute(ledger):
    """-> how many numbers were computed, and how many are inputs. AssertionError where one differs."""
    values, inputs = [], 0
    for place, number in enumerate(ledger["numbers"]):
        assert number["id"] == place and all(parent < place for parent in number["parents"])
        if number["op"] in ("given", "constant"):
            assert not number["parents"]
            values.append(number["value"])
            inputs += 1
            continue
        values.append(arithmetic(number, [values[parent] for parent in number["parents"]]))
        assert close(values[-1], number["value"], 1e-15), number
    return len(values) - inputs, inputs


def close(a, b, tolerance):
    """Whether two numbers are equal, relative to the larger."""
    return abs(a - b) <= tolerance * max(abs(a), abs(b))


def textbook_step(settings, given):
    """Every named tensor of the step. given holds x0, noise, beta, parameters and fresh_noise as lists."""
    t, T = settings["t"], settings["num_train_timesteps"]
    beta, out = given["beta"], {}
    alpha = [1 - b for b in beta]
    alpha_bar = [math.prod(alpha[1:k + 1]) for k in range(T + 1)]
    out |= {"alpha": alpha, "alpha_bar": alpha_bar, "a": [math.sqrt(x) for x in alpha_bar],
            "sigma": [math.sqrt(1 - x) for x in alpha_bar]}
    a, sigma = math.sqrt(alpha_bar[t]), math.sqrt(1 - alpha_bar[t])
    x0, eps = given["x0"], given["noise"]
    x_t = [a * x + sigma * e for x, e in zip(x0, eps, strict=True)]
    out |= {"x_t": x_t, "target": eps}

    time = [math.sin(t - 1), math.cos(t - 1)]
    z = x_t + time
    W1, b1, W2, b2 = (given[name] for name in ("linear1.W", "linear1.b", "linear2.W", "linear2.b"))
    W1, W2 = [W1[3 * i:3 * i + 3] for i in range(4)], [W2[2 * i:2 * i + 2] for i in range(3)]
    u = [sum(z[i] * W1[i][h] for i in range(4)) + b1[h] for h in range(3)]
    s = [1 / (1 + math.exp(-x)) for x in u]
    h = [x * y for x, y in zip(u, s, strict=True)]
    y = [sum(h[i] * W2[i][o] for i in range(3)) + b2[o] for o in range(2)]
    error = [p - q for p, q in zip(y, eps, strict=True)]
    out |= {"time": time, "linear1": u, "linear1.silu.s": s, "linear1.silu": h, "linear2": y,
            "loss.error": error, "loss": [sum(e * e for e in error) / 2]}

    dy = [2 * e / 2 for e in error]
    dh = [sum(dy[o] * W2[i][o] for o in range(2)) for i in range(3)]
    du = [d * p * (1 + x * (1 - p)) for d, p, x in zip(dh, s, u, strict=True)]     # (x s)' = s (1 + x (1-s))
    dz = [sum(du[k] * W1[i][k] for k in range(3)) for i in range(4)]
    out |= {"loss.dy": dy, "linear2.dx": dh, "linear1.silu.dx": du, "linear1.dx": dz}
    grads = {"linear1.W": [z[i] * du[k] for i in range(4) for k in range(3)], "linear1.b": du,
             "linear2.W": [h[i] * dy[o] for i in range(3) for o in range(2)], "linear2.b": dy}

    for name, gradient in grads.items():
        layer, letter = name.split(".")
        m, v = [0.1 * g for g in gradient], [0.001 * g * g for g in gradient]
        m_hat, v_hat = [x / (1 - 0.9) for x in m], [x / (1 - 0.999) for x in v]
        move = [settings["lr"] * p / (math.sqrt(q) + 1e-8) for p, q in zip(m_hat, v_hat, strict=True)]
        new = [p - d for p, d in zip(given[name], move, strict=True)]
        c = math.sqrt(0.001)
        out |= {f"{layer}.d{letter}": gradient, f"{name}.m": m, f"{name}.v": v, f"{name}.m_hat": m_hat,
                f"{name}.v_hat": v_hat, f"{name}.update": move, f"{name}.new": new, f"{name}.usual": new,
                f"{name}.c": [c], f"{name}.denominator": [math.sqrt(q) + 1e-8 * c for q in v]}

    x0_hat = [(x - sigma * e) / a for x, e in zip(x_t, y, strict=True)]
    of_x0 = math.sqrt(alpha_bar[t - 1]) * beta[t] / (1 - alpha_bar[t])              # Ho et al. 2020, eq. 7
    of_x_t = math.sqrt(alpha[t]) * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    mean = [of_x0 * p + of_x_t * q for p, q in zip(x0_hat, x_t, strict=True)]
    variance = beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    noise = [math.sqrt(variance) * n for n in given["fresh_noise"]]
    out |= {"variance": [variance]} if t > 1 else {}                # the last jump, to t = 0, adds no noise
    return out | {"x0_hat": x0_hat, "eps_hat": y, "mean": mean, "mean.beta": [beta[t]],
                  "mean.of_x0": [of_x0], "mean.of_x_t": [of_x_t],
                  "x_s": [m + n for m, n in zip(mean, noise, strict=True)] if t > 1 else mean}


def compare_with_textbook(ledger, tolerance=1e-12):
    """-> how many numbers of named results agree with the formulas, relative to their tensor's largest."""
    numbers, checked = ledger["numbers"], 0
    results = {result["name"]: [numbers[id]["value"] for id in result["numbers"]]
               for entry in ledger["entries"] for result in entry["results"]}
    given = {result["name"] for result in ledger["entries"][0]["results"]}
    right = textbook_step(ledger["settings"], results)
    assert set(results) == given | set(right), set(results) ^ (given | set(right))
    for name, expected in right.items():
        found = results[name]
        largest = max(map(abs, expected))
        assert len(found) == len(expected), name
        assert all(abs(p - q) <= tolerance * largest for p, q in zip(found, expected, strict=True)), name
        checked += len(found)
    return checked


if __name__ == "__main__":
    read = json.load(sys.stdin)
    computed, inputs = recompute(read)
    named = compare_with_textbook(read)
    print(f"{computed + inputs} numbers: {computed} recomputed from their parents, {inputs} are inputs; "
          f"{named} agree with the textbook's formulas")
