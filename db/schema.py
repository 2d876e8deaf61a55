"""The tables. Identity is enforced here: by keys, unique constraints and foreign keys.

Changing anything here takes a migration in `db/migrations/versions`; a test compares the two.
Runs have a small integer key beside their id: metric rows carry it in a clustered primary key,
which halves the file and the selection's time against a text key (measured on 8 million rows).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# The newest migration; a test holds it equal to Alembic's.
HEAD = "0003"

RUN_STATES = ("pending", "running", "done", "diverged", "failed", "cancelled", "voided")
# How an attempt ended: like its run, or `paused` (told to stop), `died` (its process), `lost`
# (its driver). NULL while it goes on.
OUTCOMES = ("done", "diverged", "failed", "cancelled", "paused", "died", "lost")

# Text is ordered by its bytes, whatever language a PostgreSQL database was made for: reports and
# exports come out alike on every engine, and an index serves the beginning of an id.
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
# Seeds are as large as users like; SQLite's integers always are.
LARGE = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(v) for v in values)})"


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {str: TEXT}  # noqa: RUF012
    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Sweep(Base):
    """One YAML file as it was launched last."""

    __tablename__ = "sweeps"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    yaml: Mapped[str]
    spec_hash: Mapped[str]
    created: Mapped[float]


class RunRow(Base):
    """One training to do or done. `content` is the identity as JSON; the columns repeat parts."""

    __tablename__ = "runs"
    __table_args__ = (
        sa.CheckConstraint(_one_of("state", RUN_STATES), "state"),
        sa.CheckConstraint("(state = 'running') = (owner_id IS NOT NULL)", "owned_while_running"),
        sa.Index(None, "model", "dataset", "method"),
        sa.Index(None, "state"),
    )
    key: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    model: Mapped[str]
    dataset: Mapped[str]
    method: Mapped[str]
    learning_rate: Mapped[float]
    hyperparameters: Mapped[str]
    seed: Mapped[int] = mapped_column(LARGE)
    variant: Mapped[str]
    epochs: Mapped[int]
    content: Mapped[str]
    state: Mapped[str] = mapped_column(default="pending")
    owner_id: Mapped[int | None] = mapped_column(sa.ForeignKey("owners.id"))
    fence: Mapped[int] = mapped_column(default=0)
    data_fingerprint: Mapped[str | None]
    weights_sha256: Mapped[str | None]


class SweepRun(Base):
    """Which runs a sweep asks for, in its order; `requested` is false for what those need.

    `extended` runs were added by `orch extend` and not by the sweep's file; of `last` ones the last
    epoch stands in its tables, not the best.
    """

    __tablename__ = "sweep_runs"
    __table_args__ = (sa.Index(None, "run_key"), {"sqlite_with_rowid": False})
    sweep_id: Mapped[int] = mapped_column(sa.ForeignKey("sweeps.id"), primary_key=True)
    run_key: Mapped[int] = mapped_column(sa.ForeignKey("runs.key"), primary_key=True)
    position: Mapped[int]
    requested: Mapped[bool]
    extended: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    last: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class Dependency(Base):
    """A run that needs another one done first."""

    __tablename__ = "dependencies"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012
    run_key: Mapped[int] = mapped_column(sa.ForeignKey("runs.key"), primary_key=True)
    needs_key: Mapped[int] = mapped_column(sa.ForeignKey("runs.key"), primary_key=True)


class Owner(Base):
    """A process that claims runs. The start time tells it from a later one with the same pid.

    It counts as lost when its heartbeat is older than `ttl` seconds by the database's clock.
    """

    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    boot_id: Mapped[str]
    process_started: Mapped[str]
    started: Mapped[float]
    heartbeat: Mapped[float]
    ended: Mapped[float | None]
    ttl: Mapped[float] = mapped_column(default=60.0, server_default="60")


class Attempt(Base):
    """One execution of a run. Append-only; the number is the run's fence at the time."""

    __tablename__ = "attempts"
    __table_args__ = (
        sa.UniqueConstraint("run_key", "number"),
        sa.CheckConstraint(f"outcome IS NULL OR {_one_of('outcome', OUTCOMES)}", "outcome"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    run_key: Mapped[int] = mapped_column(sa.ForeignKey("runs.key"))
    number: Mapped[int]
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("owners.id"))
    host: Mapped[str | None]
    device: Mapped[str | None]
    versions: Mapped[str | None]
    git_commit: Mapped[str | None]
    git_dirty: Mapped[bool | None]
    claimed: Mapped[float]
    started: Mapped[float | None]
    heartbeat: Mapped[float | None]
    ended: Mapped[float | None]
    resumed_from: Mapped[int | None]
    outcome: Mapped[str | None]
    irreproducible: Mapped[bool] = mapped_column(default=False)
    error: Mapped[str | None]
    traceback: Mapped[str | None]
    peak_memory: Mapped[int | None] = mapped_column(sa.BigInteger)
    cause: Mapped[str | None]
    node: Mapped[str | None]
    threads: Mapped[int | None]
    precision: Mapped[str | None]
    micro_batch: Mapped[int | None]
    resumed_step: Mapped[int | None]
    data_fingerprint: Mapped[str | None]
    weights_sha256: Mapped[str | None]


class EpochRow(Base):
    """What an epoch measured of training, and the attempt that measured it first."""

    __tablename__ = "epochs"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012
    run_key: Mapped[int] = mapped_column(sa.ForeignKey("runs.key"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    train_loss: Mapped[float | None]
    train_accuracy: Mapped[float | None]
    learning_rate: Mapped[float]
    seconds: Mapped[float]
    images_per_second: Mapped[float]


class MetricRow(Base):
    """One number of one split; `group` is empty for the split's headline metric."""

    __tablename__ = "metrics"
    __table_args__ = (
        sa.ForeignKeyConstraint(["run_key", "epoch"], ["epochs.run_key", "epochs.epoch"]),
        {"sqlite_with_rowid": False},
    )
    run_key: Mapped[int] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    group: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]
    correct: Mapped[int | None]
    n: Mapped[int | None]


class ArtifactRow(Base):
    """A file a run leaves for others, relative to the runs folder."""

    __tablename__ = "artifacts"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012
    run_key: Mapped[int] = mapped_column(sa.ForeignKey("runs.key"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(sa.BigInteger)


class VoidRow(Base):
    """What a run had measured and left when it was voided, as JSON: kept, and in no table."""

    __tablename__ = "voids"
    __table_args__ = (sa.UniqueConstraint("run_key", "voided"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_key: Mapped[int] = mapped_column(sa.ForeignKey("runs.key"))
    voided: Mapped[float]
    reason: Mapped[str]
    state: Mapped[str]
    attempt: Mapped[int]
    history: Mapped[str]
    artifacts: Mapped[str]
