"""``aiosmtpd inbox``: a mail catcher with a page in the browser and an API."""
