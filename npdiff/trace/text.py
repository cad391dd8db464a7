"""The ledger in a terminal: the whole story, or one number opened down to the data and the weights."""

import difflib

ATOM, POWER, PRODUCT, SUM = 3, 2, 1, 0          # how tightly the outermost operation of an expression binds


def story(ledger):
    """The lines of the whole ledger."""
    s = ledger.settings
    inputs, hidden, outputs = s["widths"]
    yield (f"One training step and one sampling step of a network: {inputs} inputs, {hidden} hidden units, "
           f"{outputs} outputs.")
    yield (f"Seed {s['seed']}, timestep t = {s['t']} of {s['num_train_timesteps']}, learning rate {s['lr']}. "
           f"The network predicts {s['prediction_type']}.")
    for k, entry in enumerate(ledger.entries):
        yield ""
        yield f"{k}. {entry.title}" + (f"   ({entry.function})" if entry.function else "")
        if entry.symbols:
            yield f"   here {', '.join(f'{symbol} is {name}' for symbol, name in entry.symbols.items())}"
        for result in entry.results:
            yield from result_lines(ledger, result)
    yield from gradient_lines(ledger)
    yield ""
    yield f'{len(ledger.numbers)} numbers. To see what made one:   npdiff trace --open "linear1.dW[0,1]"'


def result_lines(ledger, result):
    """A result: its name and shape, its equations, its code, its values."""
    yield f"   {result.name}" + (f"   {shape_in_words(result.shape)}" if result.shape else "")
    for equation in result.equations:
        yield f"      {equation}"
    for code in result.code:
        yield f"      {code.text:60} {code.file}:{code.line}"
    found = [ledger.numbers[id]["value"] for id in result.numbers]
    columns = result.shape[-1] if result.shape else 1
    rows = [found[start:start + columns] for start in range(0, len(found), columns)]
    if len(found) > 1 and len(set(found)) == 1:
        yield f"      all {found[0]:.4g}"
        return
    for row in rows:
        yield f"      {''.join(f'{value:>12.4g}' for value in row)}"


def shape_in_words(shape):
    """(1, 3) as "1 x 3"."""
    return " x ".join(map(str, shape))


def gradient_lines(ledger):
    """The table of each gradient against others, and Adam in its two forms."""
    others = list(dict.fromkeys(other for check in ledger.gradients.values() for other in check))
    columns = [other for other in others
               if any(isinstance(check.get(other), float) for check in ledger.gradients.values())]
    yield ""
    yield "Each gradient against others that do not use the hand-derived backward: relative error"
    yield f"   {'':22}{''.join(f'{other:>20}' for other in columns)}"
    for name, check in ledger.gradients.items():
        cells = (f"{check[other]:.1e}" if other in check else "-" for other in columns)
        yield f"   {name:22}{''.join(f'{cell:>20}' for cell in cells)}"
    for other in others:
        if other not in columns:
            reason = next(check[other] for check in ledger.gradients.values() if other in check)
            yield f"   {other}: not compared: {reason}"
    worst = max(ledger.adam.values())
    yield f"Adam's new parameters and those of the usual form differ by at most {worst:.1e} (relative)"


def opened(ledger, name, depth):
    """The lines for one number: what it is made of, and what this is made of, `depth` levels down.

    Raises ValueError if no number has the name, or depth is below 1.
    """
    if name not in ledger.names:
        near = difflib.get_close_matches(name, ledger.names, 3)
        meant = f"; perhaps you meant {' or '.join(near)}" if near else ""
        raise ValueError(f"no number is called {name}; names are like linear1.dW[0,1] or loss{meant}")
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be at least 1")
    number = ledger.numbers[ledger.names[name]]
    results = [result for entry in ledger.entries for result in entry.results]
    places = {id: result for result in reversed(results) for id in result.numbers}
    if number["name"] != name:
        yield f"{name} = {number['name']}"
        yield from (line for result in results if result.name == name.partition("[")[0]
                    for line in place_lines(result))
        yield ""
    level, seen = [number["id"]], set()
    for step in range(depth):
        following = []
        for id in level:
            yield from number_lines(ledger, ledger.numbers[id], places.get(id))
            following += named_parts(ledger, id)
        seen.update(level)
        level = [id for id in dict.fromkeys(following) if id not in seen]
        if level and step + 1 < depth:
            yield ""
            yield f"{step + 1} step{'s' if step else ''} back:"
    if level:
        yield ""
        yield f"These are made of {len(level)} more numbers. To see them too: --depth {depth + 1}"


def number_lines(ledger, number, place):
    """One number: the sum or the operation that made it, in names and in values, and where that stands."""
    yield f"{number['name']} = {number['value']:.4g}" + ("   given" if number["op"] == "given" else "")
    if not number["parents"]:
        return
    sign = "="
    for term in number["terms"]:
        in_names, in_values = (expression(ledger, term, number["id"], values)[0] for values in (False, True))
        value = f"{ledger.numbers[term]['value']:.4g}"
        total = f" = {value}" if in_values != value else ""
        gap = "\n     " if len(in_names) > 44 else " " * (46 - len(in_names))
        yield f"   {sign} {in_names}{gap}{in_values}{total}"
        sign = "+"
    if place:
        yield from place_lines(place)


def place_lines(result):
    """The equations of a result and its code."""
    for line in [*result.equations, *(f"{code.text}   {code.file}:{code.line}" for code in result.code)]:
        yield f"        {line}"


def named_parts(ledger, id):
    """The ids of the named numbers that a number is made of, in order, without those that only they need."""
    parts = []
    for parent in ledger.numbers[id]["parents"]:
        parts += [parent] if ledger.numbers[parent]["name"] else named_parts(ledger, parent)
    return parts


def expression(ledger, id, whole, values):
    """-> what made a number, in names or in values, and how tightly it binds. A name within is not opened.

    whole is the id of the number that is being opened; its own name is.
    """
    number = ledger.numbers[id]
    if number["name"] and id != whole or not number["parents"]:
        value = f"{number['value']:.4g}"
        return (value if values or not number["name"] else number["name"]), ATOM
    parts = [expression(ledger, parent, whole, values) for parent in number["parents"]]

    def part(k, least):
        text, binds = parts[k]
        return text if binds >= least and not (k and text.startswith("-")) else f"({text})"

    op = number["op"]
    if op in ("+", "-"):
        return f"{part(0, SUM)} {op} {part(1, SUM if op == '+' else PRODUCT)}", SUM
    if op in ("*", "/"):
        return f"{part(0, PRODUCT)} {op} {part(1, PRODUCT if op == '*' else POWER)}", PRODUCT
    if op == "neg":
        return f"-{part(0, POWER)}", PRODUCT
    if op.startswith("^"):
        text, binds = parts[0]
        text = text if binds == ATOM and not text.startswith("-") else f"({text})"
        return f"sqrt({parts[0][0]})" if op == "^0.5" else f"{text}{op}", POWER
    return f"{op}({parts[0][0]})", ATOM
