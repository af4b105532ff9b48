"""What waiting costs, beside other providers. See README.rst."""
