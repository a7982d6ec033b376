"""A small project for builds: a module for each thing that may become of one.

Each module that only the compilers reject makes them start again, so the whole project takes a minute. `QUICK` has the
same modules, and the compilers see few of them.
"""

from pathlib import Path

MANIFEST = "shop/molt_exports.json"
FILES = {
    MANIFEST: """
        {"abi_version": "0.1", "exports": [
            {"name": "total", "target": "shop.core:total"},
            {"name": "refuse", "target": "shop.core:refuse"},
            {"name": "fail", "target": "shop.core:fail"},
            {"name": "polite", "target": "shop.core:polite"},
            {"name": "stubborn", "target": "shop.core:stubborn"},
            {"name": "pid", "target": "shop.core:pid"},
            {"name": "double", "target": "shop.core:double"},
            {"name": "faults", "target": "shop.core:faults"}
        ]}
    """,
    "shop/__init__.py": """
        from .slug import slug
    """,
    "shop/core.py": '''
        """The entrypoints."""
        import os
        from molt_worker import InvalidInput, current_request, export
        from rates import RATE
        from shop import broken, here, late, options
        from shop.bag import packed
        from shop.grown import added
        from shop.money import Coins, Money
        from shop.options import Frozen
        from shop.price import euros
        from shop.shown import shown

        def total(payload: list[int]) -> int:
            money = Money(0)
            for each in payload:
                money.add(each)
            return money.cents * RATE

        def refuse(payload: object) -> None:
            raise InvalidInput(f"no {payload}")

        def fail(payload: object) -> None:
            raise KeyError(payload)

        def polite(path: str) -> None:
            request = current_request()
            open(path, "w").write("running")
            while True:
                request.check()

        def stubborn(path: str) -> int:
            open(path, "w").write("running")
            n = 1
            while True:
                n = (n * 5 + 1) % 1000003
                if n < 0:
                    return n

        def pid(payload: object) -> int:
            return os.getpid()

        def double(payload: Frozen) -> Frozen:
            return Frozen(payload.cents * 2)

        @export(name="marked", codec_out="json")
        def doubles(payload: list[Frozen]) -> "list[Frozen]":
            return [double(each) for each in payload]

        def count(payload: Coins) -> int:
            return len(payload.cents)

        def faults(payload: object) -> list[object]:
            return [packed(payload), added(payload), euros(payload), shown(payload)]

        class Till:
            def double(self, payload: Frozen, *more: int) -> Frozen:
                return double(payload)

        till = Till()
        renamed = double
    ''',
    "shop/money.py": '''
        """Classes that become native."""
        from dataclasses import dataclass

        @dataclass
        class Coins:
            cents: list[int]

        class Money:
            def __init__(self, cents: int) -> None:
                self.cents = cents

            def add(self, cents: int) -> None:
                self.cents += cents

            def untyped(self, other):
                return other
    ''',
    "shop/broken.py": '''
        """Types are wrong."""

        def wrong() -> int:
            return "text"
    ''',
    "shop/here.py": '''
        """Looks for data beside itself."""
        from pathlib import Path

        HERE = Path(__file__).parent
    ''',
    "shop/options.py": '''
        """A class whose options mypyc would ignore."""
        from typing import Annotated
        import msgspec

        class Frozen(msgspec.Struct, frozen=True):
            cents: Annotated[int, msgspec.Meta(ge=0)]
    ''',
    "shop/late.py": '''
        """Needs what compiled functions don't have."""

        def function() -> None: ...

        DEFAULTS = function.__kwdefaults__
    ''',
    "shop/bag.py": '''
        """Attributes that only `vars` knows of."""

        class Bag:
            def __init__(self, **attributes: object) -> None:
                vars(self).update(attributes)

        def packed(payload: object) -> int:
            return len(vars(Bag(a=payload, b=2)))
    ''',
    "shop/grown.py": '''
        """Untyped classes that add attributes to those of their bases: mypyc crashes, and names no module."""

        class Base:
            def __init__(self):
                self.a = 1

        class Grown(Base):
            def __init__(self):
                super().__init__()
                self.b = 2

        class More(Grown):
            def __init__(self, c):
                super().__init__()
                self.c = c

        def added(payload):
            return More(payload).b
    ''',
    "shop/price.py": '''
        """An untyped property: mypyc crashes, and names the module."""

        class Price:
            @property
            def euros(self):
                return 2.5

        def euros(payload):
            return Price().euros
    ''',
    "shop/slug.py": '''
        """A function with its module's name, which the package hands on."""

        def slug(text: str) -> str:
            return text.lower()
    ''',
    "shop/shown.py": '''
        """The function to Python; to mypyc, the module, which can't be called."""
        from shop import slug

        def shown(payload):
            return slug(str(payload))
    ''',
    "shop/unused.py": '''
        """Not imported by anything."""
    ''',
    "rates.py": '''
        """Of the project, but not of the exports' package."""
        from typing import Final
        import models

        RATE: Final = 2
    ''',
    "models.py": '''
        """What must not be compiled unasked."""
    ''',
}

#: The modules that are left in Python for what the compilers, or an import of what they made, say. What the compilers
#: themselves say of one of them takes one start.
COSTLY = ("shop/late.py", "shop/grown.py", "shop/price.py")
#: They are the same to Python, and left in Python before the compilers see them.
QUICK = {name: f"{FILES[name]}\n        HERE = __file__\n" for name in COSTLY}


def write(folder: Path, **changed: str) -> Path:
    """Write the project into a folder; returns that."""
    for name, text in {**FILES, **changed}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")
    return folder
