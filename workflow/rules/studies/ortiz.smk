# Physical adequacy of potentials (Ortiz): its targets.
include: "../adequacy.smk"


rule ortiz:
    input:
        [product.paths(ADEQUACY_OUT)[0] for product in ADEQUACY.PRODUCTS.values()],
        f"{ADEQUACY_OUT}/verdicts.html",
    localrule: True


STUDY_TARGETS += rules.ortiz.input
DEMO_TARGETS += rules.ortiz.input
