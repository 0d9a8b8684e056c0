"""`tidelens space`: makes another space beside the active one, and moves nodes between them."""

import click

from tidelens.cli.base.command import Example, Group
from tidelens.cli.space.compare import compare
from tidelens.cli.space.create import create
from tidelens.cli.space.drop import drop
from tidelens.cli.space.rollback import rollback
from tidelens.cli.space.status import status
from tidelens.cli.space.switch import switch


class _InOrderOfUse(Group):
    """A group that lists its commands in the order in which an operator uses them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrderOfUse,
    examples=[
        Example(
            "tidelens space create ./vit-b-32",
            "Encode all items with another model, while nodes answer as before.",
        ),
        Example("tidelens space switch", "Let all nodes answer with the new model."),
    ],
)
def space() -> None:
    """Move a collection to another model beside live traffic.

    A space is what one model makes: vectors of all items, and an index of them. Create the space of
    another model, switch the nodes to it, and return with `rollback` if its answers are not good.
    """


for one in (create, compare, switch, rollback, drop, status):
    space.add_command(one)
