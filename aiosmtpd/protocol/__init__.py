"""The rules of SMTP: bytes in, values out, without asyncio or socket."""
