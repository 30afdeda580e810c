"""From samples to a table: medians with their spread, and Fathom's ratio to the best peer."""

from statistics import median

OURS = "fathom"


def spread(samples):
    """Median, least and greatest."""
    return {"median": median(samples), "min": min(samples), "max": max(samples), "samples": samples}


def compare(rounds, case):
    """One row: each engine's spread over the rounds, and the ratio to the best peer.

    `rounds` holds `{engine: {case name: tokens per second}}`. The best peer is the one of the best median;
    ratios are taken within each round, because both ran there in the same minutes.
    """
    samples = {}
    for results in rounds:
        for engine, rates in results.items():
            if case in rates:
                samples.setdefault(engine, []).append(rates[case])
    row = {"case": case, "engines": {engine: spread(values) for engine, values in samples.items()}}
    peers = [engine for engine in samples if engine != OURS]
    if OURS in samples and peers:
        best = max(peers, key=lambda engine: median(samples[engine]))
        both = [r for r in rounds if case in r.get(OURS, {}) and case in r.get(best, {})]
        if both:
            row["best_peer"] = best
            row["ratio"] = spread([results[OURS][case] / results[best][case] for results in both])
    return row


def number(value):
    """Three digits, as many as any of these figures deserves."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def cell(value):
    """`24.9 (23.1–26.0)`."""
    return f"{number(value['median'])} ({number(value['min'])}–{number(value['max'])})"


def render(rows, engines):
    """Rows of `compare` as text, one column per engine."""
    compared = any("ratio" in row for row in rows)
    lines = [["tokens/s", *engines] + (["fathom / best peer"] if compared else [])]
    for row in rows:
        line = [row["case"]]
        line += [cell(row["engines"][engine]) if engine in row["engines"] else "–" for engine in engines]
        if compared:
            line.append(f"{cell(row['ratio'])} {row['best_peer']}" if "ratio" in row else "–")
        lines.append(line)
    return columns(lines)


def render_bandwidth(rows, engines, bytes_per_token, read_bytes_per_second):
    """Bytes of weights and cache that decode reads per second, as a share of what the memory gives.

    The bytes are those Fathom counts, so this is fair only between engines that hold the same file.
    """
    lines = [["share of memory reads", *engines]]
    for row in rows:
        if row["case"] in bytes_per_token and " x" not in row["case"]:
            per_token = bytes_per_token[row["case"]]
            line = [f"{row['case']} ({per_token / 1e6:.0f} MB)"]
            for engine in engines:
                rate = row["engines"].get(engine, {}).get("median")
                share = rate and rate * per_token / read_bytes_per_second
                line.append(f"{share:.0%} ({rate * per_token / 1e9:.1f} GB/s)" if rate else "–")
            lines.append(line)
    return columns(lines) if len(lines) > 1 else ""


def columns(lines):
    """Aligned with blanks; the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ""
    for line in lines:
        first, *others = (item.ljust(width) if i == 0 else item.rjust(width)
                          for i, (item, width) in enumerate(zip(line, widths)))
        text += "  ".join([first, *others]).rstrip() + "\n"
    return text
