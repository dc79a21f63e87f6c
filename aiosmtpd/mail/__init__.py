"""Read messages, compare them and print them."""
