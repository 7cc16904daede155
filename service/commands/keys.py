"""facesphere keys create | list | revoke | rotate."""

import json
from typing import Any

import click

from service.commands.common import data_dir, duration, keys_dir, moment, opened_gallery
from service.rest import render
from service.security.keys import ApiKey, KeyGrant
from service.security.rules import SCOPES

_ACTOR = "cli"


@click.group()
def keys() -> None:
    """API keys: make, list, revoke, rotate. A running server notices at once."""


@keys.command(epilog="Example: facesphere keys create door --scope identify --collection lab --expires 90d")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="May be given often.")
@click.option("--collection", "collections", multiple=True, help="The only ones it may be used for; all if left out.")
@click.option("--expires", help="In 30m, 12h, 90d, or at a date as in 2027-01-31.")
@click.option("--requests-per-minute", type=int, help="More of them get 429.")
@click.option("--requests-per-day", type=int, help="The same for a day.")
@click.option("--first", is_flag=True, help="Make none, and print nothing, where there ever was a key.")
@click.option("--json", "as_json", is_flag=True, help="Print the document that POST /keys answers.")
@data_dir
@keys_dir
def create(
    name: str,
    scopes: tuple[str, ...],
    collections: tuple[str, ...],
    expires: str | None,
    requests_per_minute: int | None,
    requests_per_day: int | None,
    first: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Make a key and print it, once: only a digest of it is kept."""
    grant = KeyGrant(
        name,
        frozenset(scopes),
        frozenset(collections) or None,
        requests_per_minute,
        requests_per_day,
        moment(expires) if expires else None,
    )
    with opened_gallery(flags, create=True) as store:
        if first and store.keys.ever_made:
            return
        _print_new(*store.keys.create(grant, _ACTOR), as_json)


@keys.command("list", epilog="Example: facesphere keys list")
@click.option("--json", "as_json", is_flag=True, help="Print the document that GET /keys answers.")
@data_dir
@keys_dir
def list_keys(as_json: bool, **flags: Any) -> None:
    """List all keys: who may do what, when each was used last, which are revoked."""
    with opened_gallery(flags) as store:
        found = store.keys.list()
    if as_json:
        click.echo(json.dumps({"keys": [render.key(each) for each in found]}))
        return
    for key in found:
        click.echo(_line(key))
    if not found:
        click.echo("no keys yet; run: facesphere keys create NAME --scope ...", err=True)


@keys.command(epilog="Example: facesphere keys revoke k7w3m2xa")
@click.argument("key_id", metavar="ID")
@data_dir
@keys_dir
def revoke(key_id: str, **flags: Any) -> None:
    """Revoke a key: it opens nothing any more, from the next call on."""
    with opened_gallery(flags) as store:
        store.keys.revoke(key_id, _ACTOR)
    click.echo(f"{key_id}: revoked", err=True)


@keys.command(epilog="Example: facesphere keys rotate k7w3m2xa --grace 1h")
@click.argument("key_id", metavar="ID")
@click.option("--grace", default="1h", show_default=True, help="How long the old key goes on working.")
@click.option("--json", "as_json", is_flag=True, help="Print the document that POST /keys answers.")
@data_dir
@keys_dir
def rotate(key_id: str, grace: str, as_json: bool, **flags: Any) -> None:
    """Make a new key with the rights of an old one, which goes on working for a while."""
    with opened_gallery(flags) as store:
        _print_new(*store.keys.rotate(key_id, duration(grace), _ACTOR), as_json)


def _print_new(key: ApiKey, token: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**render.key(key), "key": token}))
    else:
        click.echo(f"{key.id}: made; keep the next line, it is shown this once", err=True)
        click.echo(token)


def _line(key: ApiKey) -> str:
    grant = key.grant
    where = "all collections" if grant.collections is None else ", ".join(sorted(grant.collections))
    state = f"revoked {key.revoked_at}" if key.revoked_at else f"used {key.last_used_at or 'never'}"
    ends = f", until {grant.expires_at:%Y-%m-%d %H:%M}" if grant.expires_at and not key.revoked_at else ""
    return f"{key.id}  {grant.name:<24} {','.join(sorted(grant.scopes)):<30} {where}; {state}{ends}"
