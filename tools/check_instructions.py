#!/usr/bin/env python3
"""Counts instructions of the functions that every request passes through, and holds them to the baseline.

    tools/check_instructions.py            fails past LIMIT_PERCENT more than the baseline, and tells where
    tools/check_instructions.py --renew    writes the baseline anew, and the table of docs/PERFORMANCE.md

Wants valgrind; installs the runner of gungraun, in the version that Cargo.lock names, where it is missing.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches/baseline/instructions.toml"
DOCUMENT = ROOT / "docs/PERFORMANCE.md"
TABLE = re.compile(r"(<!-- instructions -->\n).*?(<!-- /instructions -->)", re.DOTALL)
LIMIT_PERCENT = 5.0


def output_of(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()


def runner():
    """The path of the runner, which has to be of the very version of the library."""
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    version = next(package["version"] for package in packages if package["name"] == "gungraun")
    target = Path(json.loads(output_of("cargo", "metadata", "--format-version=1", "--no-deps"))["target_directory"])
    # Apart for each version, and not among what is built: it stays when that is thrown away between two versions.
    home = target / "tools" / f"gungraun-runner-{version}"
    if not (home / "bin/gungraun-runner").exists():
        # Unoptimised: it builds in a fraction of the time, and only starts valgrind and reads what it says.
        install = ["cargo", "install", "--locked", "--quiet", "--debug", "gungraun-runner"]
        subprocess.run([*install, "--version", version, "--root", str(home)], check=True, cwd=ROOT)
    return home / "bin/gungraun-runner"


def environment():
    """What counts depend on besides the source: a baseline is for one of these."""
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    # Code that chooses by processor (memchr, the C library) chooses by these of what callgrind can imitate.
    features = [feature for feature in ("sse4_2", "avx", "avx2") if feature in flags.split()]
    return {
        "rustc": output_of("rustc", "--version").split()[1],
        "valgrind": output_of("valgrind", "--version").removeprefix("valgrind-"),
        "c_library": os.confstr("CS_GNU_LIBC_VERSION") or "other",
        "processor": " ".join(features),
    }


def count():
    """Instructions by the name of what was counted."""
    command = ["cargo", "bench", "--locked", "--quiet", "--profile", "instructions", "--bench", "instruction_counts"]
    command += ["--", "--output-format=json"]
    ran = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "GUNGRAUN_RUNNER": str(runner())}
    )
    if ran.returncode != 0:
        sys.exit("the benchmarks did not run")
    counts = {}
    for line in ran.stdout.splitlines():
        if line.startswith("{"):
            summary = json.loads(line)
            name = ".".join(filter(None, (summary["function_name"], summary.get("id"))))
            counts[name] = instructions(summary)
    return counts


def instructions(summary):
    profile = next(profile for profile in summary["profiles"] if profile["tool"] == "Callgrind")
    return profile["data"]["total"]["metrics"]["Ir"]["values"]["new"]


def renew(counts):
    lines = ["# Instructions of one call each; written by `tools/check_instructions.py --renew`.", "", "[environment]"]
    lines += [f'{name} = "{value}"' for name, value in environment().items()]
    lines += ["", "[instructions]"]
    lines += [f'"{name}" = {counted}' for name, counted in counts.items()]
    BASELINE.parent.mkdir(exist_ok=True)
    BASELINE.write_text("\n".join(lines) + "\n")
    rows = "".join(f"| `{name}` | {counted:,} |\n" for name, counted in counts.items())
    table = f"| function and input | instructions |\n|---|---:|\n{rows}"
    DOCUMENT.write_text(TABLE.sub(lambda match: f"{match[1]}{table}{match[2]}", DOCUMENT.read_text()))


def compare(counts, baseline):
    """Prints each count beside its baseline, and returns what is wrong."""
    wrong = [f"{name} is in the baseline, and is not counted any more" for name in baseline.keys() - counts.keys()]
    for name, counted in counts.items():
        before = baseline.get(name)
        if before is None:
            wrong.append(f"{name} has no baseline")
            continue
        percent = (counted / before - 1) * 100
        print(f"{name:45} {before:>9,} -> {counted:>9,} instructions ({percent:+.1f} %)")
        if percent > LIMIT_PERCENT:
            wrong.append(f"{name} takes {percent:.1f} % more instructions than the baseline ({before:,} -> {counted:,})")
        elif percent < -LIMIT_PERCENT:
            print(f"  {name} has become cheaper: renew the baseline, so that it stays so")
    return wrong


def main():
    if sys.argv[1:] not in ([], ["--renew"]):
        sys.exit(__doc__)
    counts = count()
    if sys.argv[1:] == ["--renew"]:
        return renew(counts)
    baseline = tomllib.loads(BASELINE.read_text())
    wrong = compare(counts, baseline["instructions"])
    if not wrong:
        return
    for sentence in wrong:
        print(f"error: {sentence}", file=sys.stderr)
    print(f"\nAt most {LIMIT_PERCENT:.0f} % more are let pass. If they are worth it, or if something is new:", file=sys.stderr)
    print("    tools/check_instructions.py --renew", file=sys.stderr)
    print("and say in the commit what they buy.", file=sys.stderr)
    for name, here in environment().items():
        there = baseline["environment"].get(name)
        if there != here:
            print(f"note: the baseline was counted with {name} {there}, this with {here}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
