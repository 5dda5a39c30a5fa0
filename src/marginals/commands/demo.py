"""`marginals demo`: train one model on real pictures and show every view of it."""

from typing import Any

from tyro.conf import FlagCreatePairsOff

from marginals.demo.config import DemoConfig


class Demo(DemoConfig):
    """Train one small model on real pictures, then show every view of that one checkpoint.

    Samples by every solver from the same noise, the likelihood of held-out pictures by three
    routes, the agreement of all predictions and units, and what the samples look most like. It ends
    with a table here, and a report.html to open in a browser. Nothing is downloaded.

    Examples:
      marginals demo
      marginals demo --data digits
      marginals demo --data path/to/pictures --minutes 10 --out runs/my-demo
    """

    debug: FlagCreatePairsOff[bool] = False
    """Show a traceback when something goes wrong (also: MARGINALS_DEBUG=1)."""

    @classmethod
    def defaults(cls, argv: list[str]) -> Any:
        return None

    def run(self) -> int:
        from marginals.demo import demo

        demo(DemoConfig(**self.model_dump(include=set(DemoConfig.model_fields))))
        return 0
