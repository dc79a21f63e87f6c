"""``aiosmtpd serve --init``: a first configuration file, with comments."""

from __future__ import annotations

EXAMPLE = """\
# The configuration of `aiosmtpd serve`. Look for mistakes:
#     aiosmtpd serve --check {name}
# A relative path is relative to the folder of this file.

# Defaults of a server that takes mail from the internet for domains of
# its own. Others are submission (for users), lmtp and relay.
preset = "mx"

# Only this machine reaches this place. For the internet:
#     listen = ["smtp://0.0.0.0:25", "smtp://[::]:25"]
listen = ["smtp://127.0.0.1:8025"]

# One worker process for each processor.
workers = "auto"

# The name in the greeting, which is that of the MX record.
#hostname = "mx.example.org"

# Started as root, the master binds the ports and reads the keys, and the
# workers become this user.
#user = "mail"

# A certificate, for STARTTLS; it is loaded again when it changes.
#[tls]
#cert = "/etc/letsencrypt/live/mx.example.org/fullchain.pem"
#key = "/etc/letsencrypt/live/mx.example.org/privkey.pem"

# A load balancer in front, which sends PROXY headers.
#[proxy]
#trusted = ["10.0.0.0/8"]

[limits]
size = "25M"
# Over all workers.
connections_per_host = 20

# The reply is 250 once a message is on the disk, in this folder.
[spool]
path = "spool"
min_free = "64M"

# Pages for monitoring: /metrics, /healthz and /readyz.
[admin]
#http = "127.0.0.1:9025"
# For `aiosmtpd ctl status --socket ctl`. Without --socket it looks for
# /run/aiosmtpd/ctl.
socket = "ctl"

[drain]
# Time for which sessions may go on when a worker ends, and then the time
# that running transactions have.
linger = "10s"
grace = "30s"

# The first route that matches a recipient counts. A recipient without a
# route is refused. Other places are
#     lmtp://127.0.0.1:24        another mail server
#     https://shop.test/mail     a web application
#     python:shop.mail:receive   a Python function
#     nats://127.0.0.1/mail.in   a NATS stream
[[route]]
name = "app"
match = ["*@example.org", "postmaster"]
to = "maildir:mail"

# A secret is not written here: it comes from a file or the environment.
#[[route]]
#name = "shop"
#match = "*@shop.example.org"
#to = "https://shop.example.org/mail"
#secret = "file:/etc/aiosmtpd/webhook"
#headers = {{ Authorization = "Bearer ${{SHOP_TOKEN}}" }}
"""


def example(name: str) -> str:
    """Return the text of a first file that is called *name*."""
    return EXAMPLE.format(name=name)
