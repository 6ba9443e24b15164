"""The commands, and which module each is in. Importing this imports nothing that takes long: help comes at once."""

import typer

from shardmill.cli.maintenance import check_storage_command, gc, verify_command
from shardmill.cli.making import partitions, plan, run
from shardmill.cli.others import index, urls
from shardmill.cli.searching import embed_text
from shardmill.cli.serving import serve
from shardmill.cli.showing import demo_photographs, show

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(run)
app.command()(plan)
app.command()(partitions)
app.command()(show)
app.command()(urls)
app.command()(index)
app.command("verify")(verify_command)
app.command()(gc)
app.command()(serve)
app.command("embed-text")(embed_text)
app.command("check-storage")(check_storage_command)
app.command("demo-photographs")(demo_photographs)
