"""Which truths can a measurement be tested against?"""
