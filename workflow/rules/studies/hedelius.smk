# SE(3)-Transformer on ANI-1 and ANI-1x (Hedelius): its targets.
HEDELIUS_OUT = f"{OUT}/hedelius"


rule hedelius_demo:
    input:
        study_products("hedelius", lambda product: product.demo),
        f"{HEDELIUS_OUT}/verdicts.html",
    localrule: True


rule hedelius:
    input:
        study_products("hedelius", lambda product: True),
        f"{HEDELIUS_OUT}/verdicts.html",
        f"{HEDELIUS_OUT}/verdicts-all.html",
    localrule: True


STUDY_TARGETS += rules.hedelius.input
DEMO_TARGETS += rules.hedelius_demo.input
