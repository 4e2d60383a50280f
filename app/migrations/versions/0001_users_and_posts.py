"""Users and posts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "users",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "posts",
        sa.Column(
            "hanesst_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("username", sa.Text(), sa.ForeignKey("users.name"), nullable=False),
        sa.Column("post_type", sa.String(7), nullable=False),
        sa.Column("post_title", sa.Text(), nullable=False),
        sa.Column("post_url", sa.Text(), nullable=False),
        sa.Column("post_text", sa.Text(), nullable=False),
        sa.Column("post_parent", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("opens_thread", sa.Boolean(), nullable=False),
        sa.Column("thread_id", sa.BigInteger(), nullable=True),
        sa.Column("replies", sa.Integer(), nullable=False),
        sa.Column("score", sa.Integer(), nullable=False),
    )
    op.create_index("ix_posts_threads", "posts", ["opens_thread", "created_at", "hanesst_id"])
    op.create_index("ix_posts_parent", "posts", ["post_parent"])
    op.create_index("ix_posts_thread_members", "posts", ["thread_id", "username"])
    op.create_index("ix_posts_user", "posts", ["username", "created_at", "hanesst_id"])


def downgrade() -> None:
    """Drop both tables, with everything in them."""
    op.drop_table("posts")
    op.drop_table("users")
