"""Tools for testing families and packs; the product itself never imports them."""
