"""`marginals demo`: train one model on real pictures and show every view of it."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from marginals.commands.common import Command


class Demo(Command):
    """Train one small model on real pictures, then show every view of that one checkpoint.

    Samples by every solver from the same noise, the likelihood of held-out pictures by three
    routes, the agreement of all predictions and units, and what the samples look most like. It ends
    with a table here, and a report.html to open in a browser. Nothing is downloaded.

    Examples:
      marginals demo
      marginals demo --data digits
      marginals demo --data path/to/pictures --out runs/my-demo
    """

    data: Annotated[str, arg(metavar="NAME|PATH")] = "fashion"
    """fashion (28x28 clothes), digits (8x8, faster), or a folder of your own pictures."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("demo-run")
    """Folder for the report, the pictures and the model; an earlier demo there is replaced."""

    def run(self) -> int:
        from marginals.demo.run import demo

        demo(self.data, self.out)
        return 0
