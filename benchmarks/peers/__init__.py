"""What users would deploy instead: stock diffusers, by itself and behind LitServe and BentoML.

The programs here run in an environment of their own and import nothing of the house.
"""
