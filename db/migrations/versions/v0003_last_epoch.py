"""Runs that stand in a sweep's tables with their last epoch, not with their best."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column(
        "sweep_runs", sa.Column("last", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
