"""Under which names the icon sets carry pocket's concepts.

Emoji sets share their names (`LISTED`). Other sets do not, and a name promises little ("chicken" is a roast, "pool" has
water in it): what they draw was chosen by looking at it, concept by concept (`icons.json`: style, concept, icon).
"""

import json
from pathlib import Path

from safety_modules.pocket.concepts import Concept
from safety_modules.pocket.glyphs import Style

_NAMES = """
dog: dog-face dog
cat: cat-face cat
penguin: penguin penguin-1
frog: frog frog-face
chick: front-facing-baby-chick frontfacingchick baby-chick
monkey: monkey-face monkeyface
apple: red-apple redapple
watermelon: watermelon watermelon-1
pizza: pizza sliceofpizza pizza-1
hamburger: hamburger hamburger-1
cake: birthday-cake birthdaycake birthday-cake-1
strawberry: strawberry strawberry-1
doughnut: doughnut doughnut-1
sunflower: sunflower sunflower-1
cactus: cactus cactus-1
pine tree: evergreen-tree evergreen
clover: four-leaf-clover fourleafclover
palm tree: palm-tree palmtree
car: automobile
moon: crescent-moon crescentmoon
cloud: cloud cloud-1
umbrella: umbrella umbrella-with-rain-drops
book: open-book openbook
football: soccer-ball soccerball
clock: alarm-clock alarmclock
lamp: light-bulb lightbulb
gift: wrapped-gift present wrapped-gift-1
hat: top-hat tophat
glasses: glasses glasses-1
shirt: t-shirt mansshirt
ballot box: ballot-box-with-ballot ballottboxwithballott
megaphone: megaphone bullhorn
parliament: classical-building classicalbuilding
fist: raised-fist raisedfist fistedhand raised-fist-1
skull: skull-and-crossbones blackskullcrossbones
dagger: dagger daggerknife
cigarette: cigarette smokingsymbol
demon: smiling-face-with-horns devilhorns
dung: pile-of-poo poo
clown: clown-face
thumbs down: thumbs-down thumbsdown thumbs-down-1
credit card: credit-card creditcard
padlock: locked-with-key lockandkey
detective: detective sleuthspy detective-1 sleuth-or-spy
antenna: satellite-antenna satelliteantenna
pin: round-pushpin roundpushpin
slot machine: slot-machine slotmachine
crystal ball: crystal-ball crystalball crystal-ball-1
joker: joker playingcardblackjoker
masks: performing-arts performingarts
pool ball: pool-8-ball billiards
ice cream: soft-ice-cream softicecream soft-ice-cream-1
pumpkin: jack-o-lantern jackolantern
snowman: snowman-without-snow snowmanwithoutsnow snowman
crayon: crayon lowerleftcrayon
knife: kitchen-knife hocho
scissors: scissors blackscissors
phone: mobile-phone cellphone
wheelchair: wheelchair-symbol wheelchairsymbol
grandmother: old-woman old-woman-1 grandma
baby: baby baby-1
stop sign: no-entry noentry
red cross: cross-mark crossmark
warning sign: warning warningsign
"""
LISTED: dict[str, tuple[str, ...]] = {
    name: tuple(icons.split()) for name, icons in (line.split(": ") for line in _NAMES.strip().splitlines())
}
"""Concept -> names tried in order, for those that no set calls what pocket calls them."""
CHOSEN: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "icons.json").read_text())
"""Style -> concept -> its icon, for sets with names of their own; what is not listed is left empty."""
UNCLEAR: dict[str, frozenset[str]] = {
    "unifont": frozenset(("apple", "banana", "watermelon", "package", "slot machine", "pool ball")),
}
"""Style -> concepts that nobody would recognise in its drawing, or that it draws as another one; left empty."""


def icons_of(concept: Concept, style: Style | None = None) -> tuple[str, ...]:
    """The names to try, in order; without a style, those of the emoji sets."""
    if style is not None and style.name in CHOSEN:
        icon = CHOSEN[style.name].get(concept.name)
        return (icon,) if icon else ()
    return LISTED.get(concept.name) or (concept.name.replace(" ", "-"),)
