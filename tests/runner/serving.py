"""A master as a process, for tests: ``python -P -m tests.runner.serving FILE [TIMES]``.

FILE has the configuration, as JSON, and is read again at a reload. TIMES are those of ``Timing``.
"""

import json
import sys
from pathlib import Path

from aiosmtpd.runner.child import Timing
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.levels import set_up_logging
from aiosmtpd.runner.master import Master


def main(file: str, times: str = "{}") -> int:
    def load() -> Config:
        return Config.from_json(Path(file).read_text())

    config = load()
    set_up_logging(config)
    return Master(config, load, timing=Timing(**json.loads(times))).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
