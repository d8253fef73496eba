"""Build the package, with a man page for every command. Everything else is in setup.cfg."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build import build


class BuildWithManPages(build):
    """The build, and the man pages as data files of the wheel."""

    def run(self):
        """Build, then let mqttkit itself write its pages."""
        super().run()
        pages = Path(self.build_base) / "man"
        subprocess.run([sys.executable, "-m", "mqttkit.cli.options.man_pages", str(pages)], check=True)
        self.distribution.data_files = [("share/man/man1", sorted(str(page) for page in pages.glob("*.1")))]


setup(cmdclass={"build": BuildWithManPages})
