/** Who may have the focus. */

/**
 * False until a person has done something here: what a link opens by itself takes the focus from nobody, least of all
 * from the page around a frame. True in browsers that do not say.
 */
export function mayTakeFocus(): boolean {
  const activation = navigator.userActivation as UserActivation | undefined;
  return activation?.hasBeenActive ?? true;
}
