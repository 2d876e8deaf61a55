"""What the two engines make of the statements that both are given."""

import sqlalchemy as sa

from db.engines import among
from db.reading import METRICS, Reader
from db.store import Store


def test_a_list_of_keys_is_looked_up_by_the_index(store: Store) -> None:
    """On SQLite a condition that is spelled `(… IN (…)) = 1` reads the whole table."""
    query = sa.select(METRICS.c.value).where(among(METRICS.c.run_key, "keys", [1, 2]))
    text = str(query.compile(store.engine, compile_kwargs={"literal_binds": False}))
    reader = Reader(store.engine)
    with reader.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", ("[1, 2]",)).all()
    told = " ".join(row[3] for row in plan)
    assert "SEARCH metrics USING PRIMARY KEY" in told, told
    assert "SCAN metrics" not in told
