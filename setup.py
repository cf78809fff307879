"Installs the package; everything it needs to know stands in settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=["="], interpolation=None)
cfg.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
s = cfg["DEFAULT"]
setup(
    name=s["lib_name"], version=s["version"], description=s["description"], author=s["author"], license="Apache-2.0",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown", python_requires=f">={s['min_python']}",
    packages=find_packages(include=["dgnet", "dgnet.*"]), include_package_data=True,
    package_data={"dgnet": ["assets/*", "weights/*.md", "weights/*/*"]},
    install_requires=s["requirements"].split(), extras_require={"dev": s["dev_requirements"].split()},
    entry_points={"console_scripts": s.get("console_scripts", "").split()}, zip_safe=False,
)
