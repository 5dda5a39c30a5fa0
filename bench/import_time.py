"""What `import marginals` adds to `import torch`, and what the first use of its names adds.

    python bench/import_time.py

Each figure is the median over fresh Python processes, which take turns; the processes time
themselves, after Python has started. Goal: less than 0.3 s over `import torch`.
"""

import argparse
import statistics
import subprocess
import sys

STEPS = {
    "import torch": "import torch",
    "import torch, marginals": "import torch, marginals",
    "... and every public name": (
        "import torch, marginals\nfor name in marginals.__all__: getattr(marginals, name)"
    ),
    "import marginals alone": "import marginals",
}
PROGRAM = """
import time
start = time.{clock}()
exec({code!r})
print(time.{clock}() - start)
"""


def seconds(code: str, clock: str) -> float:
    """Time a piece of Python in a fresh process."""
    program = PROGRAM.format(code=code, clock=clock)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Import time over torch's own.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    asked = parser.parse_args()
    clock = "perf_counter" if asked.clock == "wall" else "process_time"
    for code in STEPS.values():  # byte code and disk cache
        seconds(code, clock)
    times: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(asked.repeats):
        for name, code in STEPS.items():
            times[name].append(seconds(code, clock))
    print(f"median of {asked.repeats} fresh processes, {asked.clock} seconds (least .. most)")
    for name, values in times.items():
        spread = f"{min(values):.3f} .. {max(values):.3f}"
        print(f"  {name:28s} {statistics.median(values):.3f}   ({spread})")
    torch, _, public, _ = (statistics.median(values) for values in times.values())
    print(f"marginals, every public name, over torch (goal < 0.3 s): {public - torch:.3f} s")


if __name__ == "__main__":
    main()
