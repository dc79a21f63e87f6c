"""A master as a process, for tests: ``python -P -m tests.runner.serving FILE [TIMES]``.

FILE has the configuration, as JSON, and is read again at a reload. TIMES are those of ``Timing``.
"""

import json
import sys
from pathlib import Path

from aiosmtpd.runner.child import Timing
from aiosmtpd.runner.config import Config
from aiosmtpd.runner.logs import set_up
from aiosmtpd.runner.master import Master
from aiosmtpd.runner.watch import Watch


def main(file: str, times: str = "{}") -> int:
    def load() -> Config:
        return Config.from_json(Path(file).read_text())

    async def reload() -> Config:
        return load()

    config = load()
    set_up(config.log)
    return Master(config, reload, watch=Watch(config), timing=Timing(**json.loads(times))).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
