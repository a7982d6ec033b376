"""What the demo's property tests draw requests from."""

from urllib.parse import quote_plus, urlencode

from hypothesis import strategies as st

from demo.molt_worker_app.fake_db import STATUSES, TAGS
from demo.molt_worker_app.query import PARAMETERS, SORTS

HOSTILE = (
    "", " ", "0", "-1", "1e9", "NaN", "inf", "-inf", "1e400", "9" * 5000, "0x10", "\uff11\uff12", "1_000",
    "+5", "1.999", ".5", "5.", "\0", "a\0b", "'; drop table items; --", "../../etc/passwd", "%", "%00", "%zz",
    "\ufeff", "ß", "\uff23\uff28\uff21\uff29\uff32", "\u202e",
    "\U0001f469\u200d\U0001f467", "a" * 5000, "{}", "[]", "null", "true", "MTox",
    "MTowMDAwMDAwMDowOjA", "====", "-", "_",
)  # fmt: skip

words = st.sampled_from(
    ("oak", "chair", "chiar", "café", "CHAIR", "gar", "tabel", "round lamp", "nothing", "oak oak")
)
prices = st.decimals(0, 2000, places=2).map(str) | st.integers(0, 2000).map(str)
hostile = st.sampled_from(HOSTILE) | st.text(max_size=40) | st.integers().map(str) | st.floats().map(str)

VALUES = {
    "q": words,
    "user_id": st.integers(1, 110).map(str),
    "status": st.sampled_from(STATUSES),
    "tag": st.sampled_from(TAGS),
    "min_price": prices,
    "max_price": prices,
    "sort": st.sampled_from(SORTS),
    "limit": st.integers(1, 100).map(str),
    "cursor": st.sampled_from(("MTozNzA2YmUzOTotMTczNTIyOTAyNjo3OTc", "MTozNzA2YmUzOTo", "!")),
}
FILTERS = ("q", "user_id", "status", "tag", "min_price", "max_price")

#: Parameters that are all allowed, apart from how they go together.
good_parameters = st.fixed_dictionaries(
    {}, optional={name: VALUES[name] for name in (*FILTERS, "sort", "limit")}
)


@st.composite
def _pairs(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Mostly sound parameters, now and then one that is not, so that both ends of the core are reached."""
    pairs: list[tuple[str, str]] = []
    for name in draw(st.lists(st.sampled_from(PARAMETERS), max_size=5)):
        sound = draw(st.integers(0, 9)) > 1
        pairs.append((name, draw(VALUES[name] if sound else hostile)))
    if draw(st.integers(0, 9)) == 0:
        pairs.append((draw(hostile), draw(hostile)))
    return pairs


#: The same as text, as a sound client sends it.
encoded_query_strings = _pairs().map(lambda pairs: urlencode(pairs, errors="replace"))

#: Whatever bytes may stand behind a question mark, as WSGI hands them over (one character a byte).
raw_query_strings = st.one_of(
    st.binary(max_size=80).map(lambda raw: raw.decode("latin-1")),
    st.text("&=;+%#?[]qlimt0123456789", max_size=60),
    st.lists(st.tuples(st.sampled_from(PARAMETERS), hostile), min_size=1, max_size=3).map(
        lambda pairs: "&".join(f"{name}={quote_plus(value, errors='replace')}" for name, value in pairs)
    ),
)

#: Mostly allowed; what goes wrong here is how parameters go together.
good_query_strings = good_parameters.map(urlencode)

query_strings = good_query_strings | encoded_query_strings | raw_query_strings

cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-50, 50),
    st.floats(-50, 50),
    st.sampled_from(("", "north", "süd", "\0")),
)
KINDS: dict[str, st.SearchStrategy[object]] = {
    "region": st.sampled_from(("north", "süd", "", None)),
    "units": st.integers(-5, 5) | st.none(),
    "price": st.floats(-1e6, 1e6) | st.integers(0, 9) | st.none(),
    "paid": st.booleans() | st.none(),
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, object]:
    """Tables with steps to run on them; most are sound, one in eight may break any rule."""
    odd = draw(st.integers(0, 7)) == 0
    columns = draw(st.permutations(list(KINDS)))
    row = st.tuples(*(cells if odd else KINDS[name] for name in columns)).map(list)
    table: dict[str, object] = {"columns": columns, "rows": draw(st.lists(row, max_size=12))}

    def column_of(*sound: str) -> str:
        return draw(st.sampled_from((*columns, "nowhere") if odd else sound))

    if draw(st.booleans()):
        column = column_of(*columns)
        operator = draw(st.sampled_from(("=", "!=", "<", "<=", ">", ">=")))
        value = draw(cells if odd else KINDS[column])
        table["where"] = [{"column": column, "op": operator if value is not None else "!=", "value": value}]
    if draw(st.booleans()):
        table["group_by"] = [column_of("region")]
    if draw(st.booleans()):
        ops = draw(st.lists(st.sampled_from(("count", "sum", "min", "max", "mean", "p95")), unique=True))
        table["aggregates"] = [{"op": op, "column": column_of("units", "price")} for op in ops]
    return table
