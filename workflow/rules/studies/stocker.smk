# Long and hot dynamics (Stocker et al.): its targets.
STOCKER_OUT = f"{OUT}/stocker"


rule stocker_demo:
    input:
        study_products("stocker", lambda product: product.demo),
        f"{STOCKER_OUT}/verdicts.html",
    localrule: True


# Failed configurations of the smallest network, labelled, added, and its dynamics again.
rule stocker_active:
    input:
        study_products("stocker", lambda product: product.active),
    localrule: True


rule stocker:
    input:
        study_products("stocker", lambda product: True),
        f"{STOCKER_OUT}/verdicts.html",
        f"{STOCKER_OUT}/verdicts-all.html",
    localrule: True


STUDY_TARGETS += rules.stocker.input
DEMO_TARGETS += rules.stocker_demo.input
