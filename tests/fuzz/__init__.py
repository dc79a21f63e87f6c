"""Targets for a fuzzer: plain functions of bytes that raise if something is wrong."""
