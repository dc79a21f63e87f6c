"""Targets for a fuzzer: plain functions of octets, which raise where something is wrong."""
