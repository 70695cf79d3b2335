"""Which meters are there, and what do their devices say of energy and power?"""
